import pytest

from glora_automl.architecture import Architecture
from glora_automl.commands import search
from glora_automl.pipeline import (
    Workspace,
    baseline_architectures,
    baseline_stage,
    prepare,
    uniform_architectures,
)
from glora_automl.presets import lora, loras
from glora_automl.study import summarize


@pytest.fixture
def context_of(tiny, tmp_path):
    def with_budget(budget, **changes):
        recipe = tiny.replace(budget=budget, **changes)
        return prepare(recipe, Workspace(runs=tmp_path, device="cpu"), "tiny")

    return with_budget


@pytest.fixture
def baselines(context_of):
    def with_budget(budget, **changes):
        context = context_of(budget, **changes)
        return context.space.shapes, baseline_architectures(context)

    return with_budget


def attended(shapes):
    return {name: shape for name, shape in shapes.items() if ".attn." in name}


def test_baselines_lora_has_the_highest_rank_that_fits_in_all_layers_or_in_attention(baselines):
    shapes, _ = baselines("100%")
    everywhere, inside = (lora(s, 1).count(shapes) for s in (shapes, attended(shapes)))
    assert inside < everywhere
    _, found = baselines(everywhere)
    assert list(found) == ["linear probe", "LoRA r=1", "BitFit"]
    assert found["LoRA r=1"] == lora(shapes, 1)
    for budget, rank in ((everywhere - 1, (everywhere - 1) // inside), (inside, 1)):
        _, found = baselines(budget)
        assert list(found)[1] == f"LoRA r={rank} in attention"
        architecture = found[f"LoRA r={rank} in attention"]
        assert architecture.count(shapes) <= budget
        assert {n: c for n, c in architecture.items() if n in attended(shapes)} == dict(
            loras(attended(shapes), budget)[-1]
        )
        assert architecture.count(shapes) == architecture.count(attended(shapes) | shapes)
    _, found = baselines(inside - 1)
    assert found["LoRA"] is None


def test_baselines_without_attention_lora_fits_in_all_layers_or_not_at_all(baselines):
    shapes, _ = baselines("100%")
    few = lora(attended(shapes), 1).count(shapes) // 4
    _, found = baselines(few, search_space={"layers": ["*.mlp.*"]})
    assert found["LoRA"] is None


def test_baselines_bitfit_above_the_budget_is_none(baselines):
    shapes, _ = baselines("100%")
    count = Architecture.uniform(shapes, E="vector").count(shapes)
    assert baselines(count)[1]["BitFit"].count(shapes) == count
    assert baselines(count - 1)[1]["BitFit"] is None


def test_uniform_architectures_fit_and_hold_the_baselines(context_of):
    for budget in ("5%", "30%", "100%"):
        context = context_of(budget)
        found = uniform_architectures(context)
        for architecture in found.values():
            assert architecture.count(context.space.shapes) <= context.budget
        fitting = {n: a for n, a in baseline_architectures(context).items() if a is not None}
        assert fitting.items() <= found.items()
    assert {"LoRA r=1", "LoRA r=2", "LoRA r=4", "SSF-like"} <= set(found)


def test_search_trains_tests_and_names_lora_in_attention(tiny, tmp_path):
    workspace = Workspace(runs=tmp_path, device="cpu")
    shapes = prepare(tiny, workspace, "tiny").space.shapes
    budget = lora(shapes, 1).count(shapes) - 1
    recipe = tiny.replace(budget=budget, training={"epochs": 2}, search={"n_trials": 2})
    result = search(recipe, workspace=workspace)
    (row,) = (row for row in result.rows if row.name.startswith("LoRA"))
    assert row.name.endswith(" in attention")
    assert 0 < row.n_params <= budget
    assert row.validation is not None
    assert row.test is not None


def test_search_baselines_above_the_budget_have_rows_without_scores(tiny, tmp_path):
    recipe = tiny.replace(budget=5, training={"epochs": 2}, search={"n_trials": 2})
    result = search(recipe, workspace=Workspace(runs=tmp_path, device="cpu"))
    rows = {row.name: row for row in result.rows}
    for name in ("LoRA", "BitFit"):
        assert rows[name].n_params is rows[name].validation is rows[name].test is None
    assert rows["linear probe"].n_params == 0
    assert rows["linear probe"].test is not None


def test_search_with_refit_trains_baselines_a_second_time_on_all_images(finished, tiny, tmp_path):
    rows = {row.name: row for row in finished.rows}
    # 24 training and 60 validation images; a refit takes as many steps.
    assert rows["linear probe"].n_images == 12 * 24 + 3 * 84
    recipe = tiny.replace(selection={"refit": False}, search={"n_trials": 2})
    other = search(recipe, workspace=Workspace(runs=tmp_path, device="cpu"))
    row = next(row for row in other.rows if row.name == "linear probe")
    assert row.n_images == 12 * 24
    assert row.validation == rows["linear probe"].validation


def test_search_without_baselines_has_one_row(tiny, tmp_path):
    recipe = tiny.replace(
        selection={"baselines": False}, training={"epochs": 2}, search={"n_trials": 2}
    )
    result = search(recipe, workspace=Workspace(runs=tmp_path, device="cpu"))
    assert [row.name for row in result.rows] == ["searched"]
    assert not any(stage.startswith("baseline") for stage in summarize(result.study)["seconds"])


def test_given_architecture_becomes_the_only_trial(tiny, tmp_path):
    recipe = tiny.replace(architecture="bitfit", training={"epochs": 3})
    result = search(recipe, workspace=Workspace(runs=tmp_path, device="cpu"))
    (trial,) = result.study.trials
    (row,) = result.rows
    assert row.name == "BitFit"
    assert trial.user_attrs["trainable_params"] == row.n_params == result.selection.n_params
    assert trial.constraints == {"trainable_params": row.n_params - result.budget}
    assert trial.value == row.validation.loss
    assert (result.selection.trial, result.selection.trained) == (0, row.validation)


def test_baseline_stage_is_named_by_the_baseline():
    assert baseline_stage("LoRA r=1 in attention") == "baseline-LoRA-r1-in-attention"
