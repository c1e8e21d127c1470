import importlib.util
import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

ROOT = Path(__file__).parents[2]


def load():
    spec = importlib.util.spec_from_file_location("backbones", ROOT / "benchmarks/backbones.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["backbones"] = module  # dataclasses look it up there
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")  # as for a script
        spec.loader.exec_module(module)
    return module


backbones = load()
NOT_ADAPTABLE = {"ResNet, basic blocks", "ResNet v2 (BiT)"}


@pytest.fixture
def documented():
    """Recorded results, as JSON."""
    path = ROOT / "benchmarks/results/backbones.json"
    return json.loads(path.read_text(encoding="utf-8"))


# The small mode checks the quick families at full size.
@pytest.mark.parametrize("family", [f for f in backbones.FAMILIES if not f.quick], ids=str)
def test_check_family_small_model_passes(family):
    row = backbones.check_family(family, cut=True, n_architectures=1)
    assert (row.n_linear + row.n_pointwise == 0) == (family.name in NOT_ADAPTABLE)
    assert 0 <= row.fraction <= 1


def test_small_mode_finds_the_recorded_results(benchmark_script, documented, tmp_path, capsys):
    out = tmp_path / "out.json"
    benchmark_script("backbones", "--small", f"--out={out}")
    assert "mobilenetv3_small_050" in capsys.readouterr().out
    found = [backbones.Row(**row) for row in json.loads(out.read_text(encoding="utf-8"))["rows"]]
    assert [row.family for row in found] == [f.name for f in backbones.FAMILIES if f.quick]
    if timm.__version__ != documented["timm"]:
        pytest.skip(f"the table is for timm {documented['timm']}")
    recorded = {row["family"]: backbones.cells(backbones.Row(**row)) for row in documented["rows"]}
    for row in found:
        assert backbones.cells(row) == recorded[row.family]


def test_docs_table_equals_the_recorded_results(documented, tmp_path):
    rows = [backbones.Row(**row) for row in documented["rows"]]
    assert [row.family for row in rows] == [family.name for family in backbones.FAMILIES]
    text = (ROOT / "docs/reference/layers.md").read_text(encoding="utf-8")
    assert f"\n{backbones.markdown(rows)}\n" in text
    assert f"timm {documented['timm']}" in text
    copy = tmp_path / "copy.md"
    copy.write_text(text, encoding="utf-8")
    backbones.write_docs(copy, rows[:1])
    shorter = copy.read_text(encoding="utf-8")
    backbones.write_docs(copy, rows)
    assert copy.read_text(encoding="utf-8") == text != shorter


class Changing(nn.Module):
    """Model whose output changes with each call."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.fc(x.mean((2, 3)).repeat(1, 2)[:, :4]) + self.calls


def test_check_changing_model_raises():
    from glora_automl.adapters import linear_shapes
    from glora_automl.search_space import SearchSpace, load_search_space

    model = Changing()
    space = SearchSpace(load_search_space("vectors"), linear_shapes(model))
    with pytest.raises(AssertionError, match="merged logits differ"):
        backbones._check(model, torch.randn(1, 3, 8, 8), space, 1)
