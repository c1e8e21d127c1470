"""Presets and printed architectures, trained without a search."""

import pytest

from glora_automl.commands import compare, resume, search, select
from glora_automl.errors import RecipeError, StudyError
from glora_automl.export import export_model
from glora_automl.pipeline import Workspace, _baselines
from glora_automl.study import Row, find_architecture, read_space, stage_costs, summarize
from glora_automl.training import load_checkpoint


def test_search_lora_preset_has_the_baselines_figures(tiny, finished, tmp_path):
    workspace = Workspace(runs=tmp_path)
    baseline = next(row for row in finished.rows if row.name.startswith("LoRA"))
    result = search(tiny.replace(name="standalone", architecture="lora"), workspace=workspace)
    (row,) = result.rows
    assert row.to_json() | {"seconds": 0} == baseline.to_json() | {"seconds": 0}
    # It is stored like a searched winner, once.
    found = load_checkpoint(tmp_path / "standalone/winner.json")
    assert found is not None
    assert found[1]["architecture"] == result.selection.architecture
    (trial,) = result.study.trials
    assert trial.value == row.validation.loss
    assert trial.user_attrs["trainable_params"] == row.n_params
    assert resume("standalone", workspace=workspace).rows == result.rows
    assert len(result.study.trials) == 1
    summary = summarize(result.study)
    assert summary["stage"] == "finished"
    assert [Row.from_json(r) for r in summary["result"]] == [row]
    assert [c.stage for c in stage_costs(result.study)] == ["backbone", "selection", "test"]
    for trial in ("best", "0"):
        export = export_model(
            "standalone", to="adapter", out=tmp_path / trial, trial=trial, workspace=workspace
        )
        assert export.record.about["weights"] == "refit"
    card = (tmp_path / "best/README.md").read_text(encoding="utf-8")
    assert "sets the architecture (LoRA" in card
    # A study without a search has no supernet, and takes no trials.
    for work in (
        lambda: select("standalone", 10, workspace=workspace),
        lambda: compare("standalone", workspace=workspace),
        lambda: resume("standalone", n_trials=9, workspace=workspace),
    ):
        with pytest.raises(StudyError, match="'standalone' must have a search"):
            work()


def test_search_searched_architecture_on_another_backbone_keeps_it(tiny, finished, tmp_path):
    workspace = Workspace(runs=tmp_path)
    number, architecture = find_architecture(finished.study)
    assert number == finished.selection.trial
    text = str(architecture)
    assert text == finished.selection.architecture
    space = {"layers": ["blocks.0.*"], "choices": {"A": ["none"], "B": ["none", "lora-1"]}}
    other = tiny.replace(
        name="other", architecture=text, search_space=space, backbone={"kwargs": {"depth": 3}}
    )
    result = search(other, workspace=workspace)
    assert result.selection.architecture == text
    assert [row.name for row in result.rows] == ["custom"]
    assert read_space(result.study).architecture({}) == architecture
    # Another order of the lines gives the same architecture.
    reordered = "\n".join(text.splitlines()[::-1])
    assert search(other.replace(architecture=reordered), workspace=workspace).rows == result.rows
    with pytest.raises(
        RecipeError, match=r"architecture must be '<Architecture .*digest .*got 'bitfit'"
    ) as error:
        search(other.replace(architecture="bitfit"), workspace=workspace)
    assert "\n" not in str(error.value)


def test_search_interrupted_preset_ends_the_same(tiny, finished, tmp_path, monkeypatch):
    workspace = Workspace(runs=tmp_path)
    baseline = next(row for row in finished.rows if row.name == "BitFit")
    preset = tiny.replace(name="bitfit", architecture="bitfit")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_baselines, "train_adapter", interrupt)
        with pytest.raises(KeyboardInterrupt):
            search(preset, workspace=workspace)
    result = search(preset, workspace=workspace)
    assert result.rows[0].test == baseline.test
    assert len(result.study.trials) == 1


def test_find_architecture_returns_a_trials_architecture(finished):
    study = finished.study
    for trial in (0, study.best_trial.number):
        number, architecture = find_architecture(study, trial)
        assert number == trial
        count = architecture.count(read_space(study).shapes)
        assert count == study.trials[trial].user_attrs["trainable_params"]
    with pytest.raises(StudyError, match=r"one of the study 'tiny' \(0 to 11\), got 12\."):
        find_architecture(study, 12)
