"""Every format is what the study has, also for those who do not have this package."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from optuna.trial import TrialState

import glora_automl
from glora_automl.errors import ExportError, StudyError
from glora_automl.export import _export, _timm, export_model
from glora_automl.pipeline import find, join, load_backbone
from glora_automl.study import Row, get_attribute, load_study, stage_costs
from glora_automl.training import evaluate


@pytest.fixture(scope="module")
def elsewhere(exports, runs, tmp_path_factory):
    """Logits that a process without this package has computed, and the images."""
    out = tmp_path_factory.mktemp("elsewhere") / "logits.npz"
    script = Path(__file__).with_name("without_package.py")
    command = [sys.executable, str(script), str(runs / "out"), str(out)]
    ran = subprocess.run(command, cwd=out.parent, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return dict(np.load(out))


@pytest.fixture(scope="module")
def study(runs):
    storage, _ = find("tiny", runs=runs)
    return load_study(storage, "tiny")


@pytest.fixture(scope="module")
def winner(runs):
    """The winner as the search hands it over."""
    return glora_automl.resume("tiny", runs=runs).model


def test_the_exports_are_the_winner_without_this_package(elsewhere, winner):
    with torch.no_grad():
        expected = winner(torch.from_numpy(elsewhere["images"])).numpy()
    for way in ("timm", "timm, checkpoint_path", "adapter", "peft", "peft, merged", "onnx"):
        np.testing.assert_allclose(elsewhere[way], expected, rtol=1e-4, atol=1e-4, err_msg=way)
    assert abs(elsewhere["backbone"] - expected).max() > 0.01


def test_the_figures_are_those_of_what_was_exported(exports, runs, study):
    row = Row.from_json(get_attribute(study, "result")[0])
    storage, recipe = find("tiny", runs=runs)
    with join(recipe, name="tiny", storage=storage, runs=runs) as run:
        run = load_backbone(run)
        model = glora_automl.load_adapter(run.setup.backbone(), exports["adapter"].path)
        assert evaluate(model, *run.setup.test()) == row.test
        assert evaluate(model, *run.setup.validation, scale_temperature=True) == row.validation
    for kind, export in exports.items():
        if kind != "backbone":
            assert export.record.about["test"] == row.test._asdict()
        assert export.verified.n_images == export.verified.predictions == 60
        assert export.verified.difference <= export.verified.tolerance


def test_an_adapter_takes_less_than_the_model(exports):
    sizes = {kind: sum(export.sizes.values()) for kind, export in exports.items()}
    tensors = exports["adapter"].sizes["adapter.safetensors"]
    assert tensors < exports["peft"].sizes["adapter_model.safetensors"]
    assert tensors < sizes["timm"]


def test_anybody_may_read_the_files(exports):
    for export in exports.values():
        modes = {file.stat().st_mode & 0o777 for file in export.path.iterdir()}
        assert modes == {export.path.stat().st_mode & 0o666}


@pytest.mark.parametrize("kind", ["adapter", "timm", "peft", "onnx", "backbone"])
def test_the_card_is_one_for_the_hub(exports, kind, runs, study):
    export = exports[kind]
    card = ModelCard.load(export.path / "README.md")
    data = card.data.to_dict()
    assert data["pipeline_tag"] == "image-classification"
    assert data["library_name"] == {"adapter": "glora-automl", "backbone": "timm"}.get(kind, kind)
    assert "60 of 60 predictions are the same" in card.text
    assert "## Load it" in card.text
    # Nobody is sent to a command that refuses it.
    assert ("glora apply" in card.text) == (kind != "backbone")
    assert ("of the study's subnet" in card.text) == (kind != "backbone")
    if kind != "backbone":
        values = [result.metric_value for result in card.data.eval_results]
        about = export.record.about
        assert values == [round(about[s]["accuracy"], 4) for s in ("validation", "test")]
        assert export.record.architecture in card.text
    # It is published: nothing in it tells of the machine.
    assert str(runs) not in card.text
    assert not [cost.worker for cost in stage_costs(study) if cost.worker in card.text]


def test_another_trial_has_the_weights_of_the_supernet(place, study, tmp_path):
    selected = get_attribute(study, "selection")["trial"]
    other = next(trial for trial in study.trials if trial.number != selected)
    export = export_model("tiny", "adapter", tmp_path / "out", trial=other.number, **place)
    about = export.record.about
    assert about["weights"] == "inherited"
    assert about["test"] is None
    assert about["validation"]["accuracy"] == other.user_attrs["validation_accuracy"]
    storage, recipe = find("tiny", runs=place["runs"])
    with join(recipe, name="tiny", storage=storage, **place) as run:
        run = load_backbone(run)
        model = glora_automl.load_adapter(run.setup.backbone(), export.path, merge=True)
        score = evaluate(model, *run.setup.validation)
    assert score.accuracy == other.user_attrs["validation_accuracy"]
    card = (export.path / "README.md").read_text(encoding="utf-8")
    assert f"inherited: those of trial {other.number}" in card
    assert "test images were never shown to it" in card
    again = export_model("tiny", "adapter", tmp_path / "w", trial=selected, **place)
    assert again.record.about["weights"] == "fine-tuned"


def test_what_was_picked_for_a_smaller_budget_is_taken(place, tmp_path):
    trials = load_study(find("tiny", runs=place["runs"])[0], "tiny").trials
    budget = min(trial.user_attrs["trainable_params"] for trial in trials)
    wanted = {"budget": budget, **place}
    with pytest.raises(StudyError, match=f"run 'glora pick tiny --budget {budget}'"):
        export_model("tiny", "timm", tmp_path / "out", **wanted)
    picked = glora_automl.pick("tiny", **wanted)
    export = export_model("tiny", "timm", tmp_path / "out", **wanted)
    assert export.record.n_params == picked.selection.n_params <= budget
    assert export.record.about["test"] == picked.rows[0].test._asdict()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        model = timm.create_model(f"local-dir:{export.path}", pretrained=True).eval()
        found = model(images)
        torch.testing.assert_close(found, picked.model(images), rtol=1e-4, atol=1e-4)
    with pytest.raises(StudyError, match="leave one out"):
        export_model("tiny", "timm", tmp_path / "again", trial=0, **wanted)


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        (99, "has no trial 99; there are: 0 to 2"),
        ("last", "must be best or the number of a trial, got 'last'"),
        (-1, "must be best or the number"),
    ],
)
def test_trials_that_are_not_there_are_told(place, tmp_path, trial, words):
    with pytest.raises(StudyError, match=words):
        export_model("tiny", "timm", tmp_path / "out", trial=trial, **place)
    assert not (tmp_path / "out").exists()


def test_trials_that_failed_are_told(place, tmp_path):
    storage, _ = find("tiny", runs=place["runs"])
    study = load_study(storage, "tiny")
    failed = study.ask()
    study.tell(failed, state=TrialState.FAIL)
    with pytest.raises(StudyError, match=f"trial {failed.number} of the study 'tiny' is fail"):
        export_model("tiny", "timm", tmp_path / "out", trial=failed.number, **place)


def test_what_computes_something_else_is_not_handed_over(place, tmp_path, monkeypatch):
    first = export_model("tiny", "timm", tmp_path / "out", **place)
    before = {file.name: file.read_bytes() for file in first.path.iterdir()}
    original = _timm.write_timm

    def off(folder, model, record):
        with torch.no_grad():
            model.get_classifier().bias[0] += 0.01
        return original(folder, model, record)

    monkeypatch.setattr(_export, "write_timm", off)
    with pytest.raises(ExportError, match="logits of the timm model differ by"):
        export_model("tiny", "timm", tmp_path / "out", force=True, **place)
    assert {file.name: file.read_bytes() for file in first.path.iterdir()} == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "runs"]


def test_a_preprocessing_that_timm_would_not_follow_is_not_handed_over(
    place, tmp_path, monkeypatch
):
    original = _timm.save_for_hf

    def other(model, folder, **keywords):
        original(model, folder, **keywords)
        path = Path(folder) / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["pretrained_cfg"]["mean"] = [0.1, 0.1, 0.1]
        path.write_text(json.dumps(config), encoding="utf-8")

    monkeypatch.setattr(_timm, "save_for_hf", other)
    with pytest.raises(ExportError, match=r"timm would prepare images with mean = \(0\.1, 0\.1"):
        export_model("tiny", "timm", tmp_path / "out", **place)


@pytest.mark.parametrize("kind", ["peft", "onnx"])
def test_a_missing_extra_is_told_before_anything_is_done(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, {"peft": "peft", "onnx": "onnxruntime"}[kind], None)
    with pytest.raises(ExportError, match=rf'pip install "glora-automl\[{kind}\]"'):
        export_model("none", kind, tmp_path / "out", runs=tmp_path / "runs")
    assert not list(tmp_path.iterdir())


def test_a_peft_without_glora_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", SimpleNamespace(__version__="0.19.1"))
    with pytest.raises(ExportError, match=r"as from 0\.20 on, got 0\.19\.1"):
        export_model("none", "peft", tmp_path / "out", runs=tmp_path / "runs")


def test_a_format_that_there_is_not_is_told(tmp_path):
    with pytest.raises(ExportError, match=r"--to must be one of timm, .*, got 'onyx'"):
        export_model("none", "onyx", tmp_path / "out", runs=tmp_path / "runs")


def test_a_study_that_is_not_finished_has_no_winner(tiny, tmp_path, monkeypatch):
    from glora_automl.commands import _search

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_search, "final_test", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        settings = {"search": {"n_trials": 2}, "selection": {"baselines": False}}
        glora_automl.search(tiny.replace(**settings), runs=tmp_path)
    with pytest.raises(StudyError, match="must be finished first: run 'glora resume tiny'"):
        export_model("tiny", "timm", tmp_path / "out", runs=tmp_path)
    export = export_model("tiny", "timm", tmp_path / "out", trial=1, runs=tmp_path)
    assert export.record.about["weights"] == "inherited"
    export = export_model("tiny", "backbone", tmp_path / "backbone", runs=tmp_path)
    assert export.record.architecture == ""
