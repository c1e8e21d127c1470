"""What stands beside the searched adapter."""

import pytest

from glora_automl.commands import search
from glora_automl.pipeline._baselines import baseline_architectures
from glora_automl.pipeline._context import prepare
from glora_automl.presets import lora, loras
from glora_automl.progress import Progress


@pytest.fixture
def baselines(tiny, tmp_path):
    def under(budget, **changes):
        recipe = tiny.replace(budget=budget, **changes)
        setup = prepare(recipe, runs=tmp_path, name="tiny", device="cpu", progress=Progress())
        return setup.space.shapes, baseline_architectures(setup)

    return under


def attended(shapes):
    return {name: shape for name, shape in shapes.items() if ".attn." in name}


def test_lora_has_the_highest_rank_that_fits_everywhere_else_in_attention(baselines):
    shapes, _ = baselines("100%")
    everywhere, inside = (lora(s, 1).count(shapes) for s in (shapes, attended(shapes)))
    assert inside < everywhere
    _, found = baselines(everywhere)
    assert list(found) == ["linear probe", "LoRA r=1", "BitFit"]
    assert found["LoRA r=1"] == lora(shapes, 1)
    for budget, rank in ((everywhere - 1, (everywhere - 1) // inside), (inside, 1)):
        _, found = baselines(budget)
        assert list(found)[1] == f"LoRA r={rank} in attention"
        assert found[f"LoRA r={rank} in attention"] == loras(attended(shapes), budget)[-1]
    _, found = baselines(inside - 1)
    assert found["LoRA"] is None


def test_without_attention_lora_fits_everywhere_or_not_at_all(baselines):
    shapes, _ = baselines("100%")
    few = lora(attended(shapes), 1).count(shapes) // 4
    layers = {"layers": ["*.mlp.*"]}
    _, found = baselines(few, search_space=layers)
    assert found["LoRA"] is None


def test_lora_in_attention_is_trained_tested_and_named(tiny, tmp_path):
    setup = prepare(tiny, runs=tmp_path, name="tiny", device="cpu", progress=Progress())
    budget = lora(setup.space.shapes, 1).count(setup.space.shapes) - 1
    rows = search(tiny.replace(budget=budget), runs=tmp_path / "runs").rows
    (row,) = (row for row in rows if row.name.startswith("LoRA"))
    assert row.name.endswith(" in attention")
    assert 0 < row.n_params <= budget
    assert row.test is not None
