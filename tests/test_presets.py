"""Architectures that are given: read, placed on a backbone, and trained without a search."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.adapters import linear_shapes
from glora_automl.architecture import Architecture, LayerShape
from glora_automl.commands import compare, pick, resume, search
from glora_automl.errors import ArchitectureError, BudgetError, RecipeError, StudyError
from glora_automl.export import export_model
from glora_automl.presets import (
    check_architecture,
    loras,
    preset_label,
    read_architecture,
    resolve_architecture,
)
from glora_automl.recipes import load_recipe, override_recipe
from glora_automl.search_space import SearchSpace
from glora_automl.study import Row, find_architecture, read_space, stage_costs, summarize
from glora_automl.training import load_checkpoint
from tests.conftest import TINY
from tests.models import MODELS, backbone, images

SHAPES = {
    "blocks.0.fc1": LayerShape(16, 8),
    "blocks.0.fc2": LayerShape(8, 16, bias=False),
    "blocks.1.fc1": LayerShape(4, 4, takes_bias=False),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("given") / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return load_recipe(str(path))


@pytest.mark.parametrize("name", ["lora", "lora-1", "lora-3", "bitfit", "ssf", "probe"])
@pytest.mark.parametrize("model", sorted(MODELS))
def test_ready_architectures_fit_any_backbone(model, name):
    shapes = linear_shapes(backbone(model), example=images())
    architecture = resolve_architecture(name, shapes, shapes, 10**6)
    assert set(architecture) == set(shapes)
    space = SearchSpace.of(architecture, shapes)
    assert space.architecture({}) == architecture
    assert space.minimum == space.maximum == architecture.count(shapes)
    assert (space.minimum == 0) == (name == "probe")


@settings(max_examples=50)
@given(budget=st.integers(0, 2000))
def test_lora_without_a_rank_has_the_highest_that_fits(budget):
    fitting = loras(SHAPES, budget)
    if not fitting:
        with pytest.raises(BudgetError, match=f"'lora' must fit the budget of {budget} "):
            resolve_architecture("lora", SHAPES, SHAPES, budget)
        return
    found = resolve_architecture("lora", SHAPES, SHAPES, budget)
    assert found.count(SHAPES) <= budget
    assert preset_label(found, SHAPES) == f"LoRA r={len(fitting)}"
    larger = resolve_architecture(f"lora-{len(fitting) + 1}", SHAPES, SHAPES, 10**6)
    assert larger == found or larger.count(SHAPES) > budget


def test_what_a_table_calls_them():
    names = ("probe", "bitfit", "ssf", "lora-2")
    found = [
        preset_label(resolve_architecture(name, SHAPES, SHAPES, 999), SHAPES) for name in names
    ]
    assert found == ["linear probe", "BitFit", "SSF-like", "LoRA r=2"]
    assert preset_label(Architecture.parse("blocks.0.fc1: A=lora-2"), SHAPES) == "given"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lorra", "got 'lorra'; did you mean 'lora'?"),
        ("lora-0", "got 'lora-0'"),
        ("", "got ''"),
        ("fc1: B=lora-0", "got 'lora-0'"),
        ("fc1: D=lora-2", "fc1: D must be one of none, scalar, vector"),
        ("fc1: none\nfc1: none", "stands twice"),
    ],
)
def test_what_is_no_architecture_is_told(recipe, text, words):
    with pytest.raises(ArchitectureError, match=re.escape(words)):
        check_architecture(text)
    with pytest.raises(ArchitectureError, match="recipe tiny: architecture: ") as error:
        recipe.replace(architecture=text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("fc9: none\nblocks.0.fc1: none", ArchitectureError, "got fc9; it has blocks.0.fc1, "),
        ("blocks.0.fc1: B=lora-9", ArchitectureError, "blocks.0.fc1: The rank of B must be"),
        ("blocks.0.fc2: D=vector", ArchitectureError, "blocks.0.fc2: D of a layer without bias"),
        ("blocks.1.fc1: E=vector", ArchitectureError, "whose bias the model does not use"),
        ("blocks.0.fc1: A=lora-2", BudgetError, "budget of 47 trainable parameters, it has 48"),
        ("lora-2", BudgetError, "'lora-2' must fit the budget of 47"),
    ],
)
def test_what_a_backbone_cannot_take_is_told(text, error, words):
    with pytest.raises(error, match=re.escape(words)):
        resolve_architecture(text, SHAPES, SHAPES, 47)


def test_files_are_read_from_the_recipes_folder(tmp_path, monkeypatch):
    text = "blocks.0.attn.qkv: B=lora-2\nblocks.1.attn.qkv: none"
    (tmp_path / "mine.txt").write_text(f"\n{text}\n", encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(f'architecture = "mine.txt"\n{TINY}', encoding="utf-8")
    assert load_recipe(str(tmp_path / "tiny.toml")).architecture == text
    monkeypatch.chdir(tmp_path)
    changed = override_recipe("tiny.toml", architecture="mine.txt")
    assert (changed.name, changed.architecture) == ("tiny-mine", text)
    assert override_recipe("tiny.toml", architecture="lora-4").name == "tiny-lora-4"
    (tmp_path / "empty.txt").touch()
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe: ")
    for name, words in (
        ("none.txt", "'none.txt': No such file"),
        ("empty.txt", "'empty.txt': it is empty"),
        ("odd.txt", "'odd.txt': it is no text"),
        ("tiny.toml", "'tiny.toml': An architecture has one layer a line"),
    ):
        with pytest.raises(ArchitectureError, match=re.escape(words)):
            read_architecture(name)


def test_lora_alone_has_the_figures_of_the_control(recipe, finished, tmp_path):
    baseline = next(row for row in finished.rows if row.name.startswith("LoRA"))
    result = search(recipe.replace(name="standalone", architecture="lora"), runs=tmp_path)
    (row,) = result.rows
    assert row.to_json() | {"seconds": 0} == baseline.to_json() | {"seconds": 0}
    # It is kept like a search's winner, and is done once.
    found = load_checkpoint(tmp_path / "alone/winner.json")
    assert found is not None
    assert found[1]["architecture"] == result.selection.architecture
    (trial,) = result.study.trials
    assert trial.value == row.validation.accuracy
    assert trial.user_attrs["trainable_params"] == row.parameters
    assert resume("standalone", runs=tmp_path).rows == result.rows
    assert len(result.study.trials) == 1
    summary = summarize(result.study)
    assert summary["stage"] == "finished"
    assert [Row.from_json(r) for r in summary["result"]] == [row]
    assert [c.stage for c in stage_costs(result.study)] == ["backbone", "selection", "test"]
    for trial in ("best", "0"):
        export = export_model(
            "standalone", to="adapter", out=tmp_path / trial, trial=trial, runs=tmp_path
        )
        assert export.record.about["weights"] == "trained"
    card = (tmp_path / "best/README.md").read_text(encoding="utf-8")
    assert "was given, without a search" in card
    # Whatever needs a supernet says that there is none.
    for work in (
        lambda: pick("standalone", 10, runs=tmp_path),
        lambda: compare("standalone", runs=tmp_path),
    ):
        with pytest.raises(StudyError, match="'alone' must be one with a search"):
            work()


def test_a_winner_is_trained_elsewhere(recipe, finished, tmp_path):
    number, architecture = find_architecture(finished.study)
    assert number == finished.selection.trial
    text = str(architecture)
    assert text == finished.selection.architecture
    space = {"layers": ["blocks.0.*"], "choices": {"A": ["none"], "B": ["none", "lora-1"]}}
    other = recipe.replace(
        name="other", architecture=text, search_space=space, backbone={"kwargs": {"depth": 3}}
    )
    result = search(other, runs=tmp_path)
    assert result.selection.architecture == text
    assert [row.name for row in result.rows] == ["given"]
    assert read_space(result.study).architecture({}) == architecture
    # The order of the lines does not make another one, other choices do.
    turned = "\n".join(text.splitlines()[::-1])
    assert search(other.replace(architecture=turned), runs=tmp_path).rows == result.rows
    with pytest.raises(RecipeError, match=r"exists with architecture = .*digest") as error:
        search(other.replace(architecture="bitfit"), runs=tmp_path)
    assert "\n" not in str(error.value)


def test_a_training_that_was_interrupted_ends_the_same(recipe, finished, tmp_path, monkeypatch):
    from glora_automl.pipeline import _baselines as _arm

    baseline = next(row for row in finished.rows if row.name == "BitFit")
    given = recipe.replace(name="bitfit", architecture="bitfit")
    with monkeypatch.context() as patch:
        patch.setattr(_arm, "adapter_outcome", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            search(given, runs=tmp_path)
    result = search(given, runs=tmp_path)
    assert result.rows[0].test == baseline.test
    assert len(result.study.trials) == 1


def test_architectures_of_trials(finished):
    study = finished.study
    for trial in (0, study.best_trial.number):
        number, architecture = find_architecture(study, trial)
        assert number == trial
        count = architecture.count(read_space(study).shapes)
        assert count == study.trials[trial].user_attrs["trainable_params"]
    with pytest.raises(StudyError, match=r"one of the study 'tiny', 0 to 11, got 12\."):
        find_architecture(study, 12)
