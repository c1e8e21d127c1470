"""Exports of a study in every format, loaded with and without this package."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from optuna.trial import TrialState, create_trial
from PIL import Image

import glora_automl
from glora_automl.commands import search
from glora_automl.errors import ExportError, StudyError, TaskError
from glora_automl.export import _export, _timm, export_model
from glora_automl.pipeline import (
    Workspace,
    best_outcome,
    find_study,
    load_adapted,
    load_backbone,
    open_run,
)
from glora_automl.recipes import load_recipe
from glora_automl.study import (
    AdapterOutcome,
    ClassReport,
    Row,
    Stage,
    get_attribute,
    load_study,
    read_data,
    read_recipe,
    stage_costs,
)
from glora_automl.training import evaluate
from tests.tasks.files import picture


@pytest.fixture(scope="module")
def logits_without_package(exports, runs, tmp_path_factory):
    """Logits and images of a process without this package."""
    out = tmp_path_factory.mktemp("without_package") / "logits.npz"
    script = Path(__file__).with_name("without_package.py")
    command = [sys.executable, str(script), str(runs / "out"), str(out)]
    process = subprocess.run(command, cwd=out.parent, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return dict(np.load(out))


def card_of(export):
    return (export.path / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study(runs):
    workspace, _ = find_study("tiny", Workspace(runs=runs))
    return load_study(workspace.opened_storage, "tiny")


@pytest.fixture(scope="module")
def winner(runs):
    """The winner that the search returns."""
    return glora_automl.resume("tiny", workspace=Workspace(runs=runs)).model


def test_export_model_without_package_returns_winner_logits(logits_without_package, winner):
    with torch.no_grad():
        expected = winner(torch.from_numpy(logits_without_package["images"])).numpy()
    for form in ("timm", "timm, checkpoint_path", "adapter", "peft", "peft, merged", "onnx"):
        found = logits_without_package[form]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=form)
    assert abs(logits_without_package["backbone"] - expected).max() > 0.01


def test_models_in_python_have_the_pretrained_cfg_of_the_export(exports, runs, winner):
    loaded = timm.create_model(f"local-dir:{exports['timm'].path}", pretrained=True)
    written = {k: v for k, v in loaded.pretrained_cfg.items() if k not in ("source", "file")}
    assert (written["crop_mode"], written["crop_pct"]) == ("squash", 1.0)
    assert (written["num_classes"], written["label_names"]) == (3, ["5", "6", "7"])
    backbone = timm.create_model(f"local-dir:{exports['backbone'].path}", pretrained=True)
    backbone.pretrained_cfg |= {"crop_mode": "center", "crop_pct": 0.9, "label_names": ["a"]}
    given = dict(backbone.pretrained_cfg)
    paths = {"digits": exports["adapter"].path}
    several = glora_automl.load_adapters(backbone, paths, merge=True)["digits"]
    assert backbone.pretrained_cfg == given
    single = glora_automl.load_adapter(backbone, exports["adapter"].path)
    for model in (winner, several, single):
        found = json.loads(json.dumps(model.pretrained_cfg))
        assert {k: found.get(k) for k in written} == json.loads(json.dumps(written))
        configs = map(timm.data.resolve_model_data_config, (model, loaded))
        assert len({json.dumps(config) for config in configs}) == 1
    config = json.loads((exports["timm"].path / "config.json").read_text(encoding="utf-8"))
    assert "label_names" in config
    assert "label_names" not in config["pretrained_cfg"]


def test_export_model_records_scores_and_verification(exports, runs, study):
    row = Row.from_json(get_attribute(study, "result")[0])
    workspace, recipe = find_study("tiny", Workspace(runs=runs))
    with open_run(recipe, workspace, name="tiny") as run:
        run = load_backbone(run)
        model = glora_automl.load_adapter(run.context.backbone(), exports["adapter"].path)
        assert evaluate(model, *run.context.test()) == row.test
        # The validation score is that of the weights before the refit.
        trained = load_adapted(run, run.stages.outcome(Stage.SELECTION, AdapterOutcome))
        assert evaluate(trained, *run.context.validation, scale_temperature=True) == row.validation
    for kind, export in exports.items():
        if kind != "backbone":
            assert export.record.about["test"] == row.test._asdict()
        assert export.verification.n_images == export.verification.n_same_predictions == 60
        assert export.verification.difference <= export.verification.tolerance


def test_export_model_details_of_the_winner_have_its_classes(exports, study):
    assert read_data(study).captions()[0] in card_of(exports["timm"])
    card = (exports["timm"].path / "study.md").read_text(encoding="utf-8")
    assert "## Classes on test images" in card
    for confusion in ClassReport.from_json(get_attribute(study, "classes")).confusions:
        assert f"| {confusion.label} | {confusion.prediction} | {confusion.n_images} |" in card
    backbone = (exports["backbone"].path / "study.md").read_text(encoding="utf-8")
    assert "Classes on test images" not in backbone


def test_export_model_of_adapter_is_smaller_than_model(exports):
    sizes = {kind: sum(export.sizes.values()) for kind, export in exports.items()}
    tensors = exports["adapter"].sizes["adapter.safetensors"]
    assert tensors < exports["peft"].sizes["adapter_model.safetensors"]
    assert tensors < sizes["timm"]


def test_export_model_files_are_readable_by_others(exports):
    for export in exports.values():
        files = [file for file in export.path.rglob("*") if file.is_file()]
        modes = {file.stat().st_mode & 0o777 for file in files}
        assert modes == {export.path.stat().st_mode & 0o666}


@pytest.mark.parametrize("kind", ["adapter", "timm", "peft", "onnx", "pt2", "backbone"])
def test_model_card_has_front_matter_and_figures(exports, kind, runs, study):
    export = exports[kind]
    card = ModelCard.load(export.path / "README.md")
    data = card.data.to_dict()
    assert data["pipeline_tag"] == "image-classification"
    assert data["library_name"] == {
        "adapter": "glora-automl",
        "backbone": "timm",
        "pt2": "pytorch",
    }.get(kind, kind)
    assert "60 of 60 predictions are equal" in card.text
    assert "trial None" not in card.text
    assert "## Load it" in card.text
    assert len(card.text.splitlines()) <= 70  # one page
    # `predict` refuses a backbone.
    assert ("glora predict" in card.text) == (kind != "backbone")
    assert ("the study's subnet" in card.text) == (kind != "backbone")
    if kind != "backbone":
        values = [result.metric_value for result in card.data.eval_results]
        about = export.record.about
        assert values == [round(about[s]["accuracy"], 4) for s in ("validation", "test")]
        assert export.record.architecture in (export.path / "study.md").read_text(encoding="utf-8")
    # A published folder must not name the machine.
    for name in ("README.md", "study.md", "recipe.toml"):
        text = (export.path / name).read_text(encoding="utf-8")
        assert str(runs) not in text
        assert not [cost.worker for cost in stage_costs(study) if cost.worker in text]
    recipe = load_recipe(export.path / "recipe.toml")
    assert recipe.identity() == read_recipe(study).identity()


def test_export_model_of_other_trial_has_inherited_weights(workspace, study, tmp_path):
    selected = get_attribute(study, "selection")["trial"]
    other = next(trial for trial in study.trials if trial.number != selected)
    export = export_model(
        "tiny", "adapter", tmp_path / "out", trial=other.number, workspace=workspace
    )
    about = export.record.about
    assert about["weights"] == "inherited"
    assert about["test"] is None
    assert about["validation"]["accuracy"] == other.user_attrs["validation_accuracy"]
    opened, recipe = find_study("tiny", workspace)
    with open_run(recipe, opened, name="tiny") as run:
        run = load_backbone(run)
        model = glora_automl.load_adapter(run.context.backbone(), export.path, merge=True)
        score = evaluate(model, *run.context.validation)
    assert score.accuracy == other.user_attrs["validation_accuracy"]
    card = (export.path / "README.md").read_text(encoding="utf-8")
    assert f"inherited by trial {other.number}" in card
    assert "was never evaluated on the test images" in card
    export = export_model("tiny", "adapter", tmp_path / "w", trial=selected, workspace=workspace)
    assert export.record.about["weights"] == "refit"


def test_export_model_with_budget_exports_its_selection(workspace, tmp_path):
    trials = load_study(find_study("tiny", workspace)[0].opened_storage, "tiny").trials
    budget = min(trial.user_attrs["trainable_params"] for trial in trials)
    arguments = {"budget": budget, "workspace": workspace}
    with pytest.raises(StudyError, match="Run 'glora select tiny' with this `budget`"):
        export_model("tiny", "timm", tmp_path / "out", **arguments)
    selected = glora_automl.select("tiny", **arguments)
    export = export_model("tiny", "timm", tmp_path / "out", **arguments)
    assert export.record.n_params == selected.selection.n_params <= budget
    assert export.record.about["test"] == selected.rows[0].test._asdict()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        model = timm.create_model(f"local-dir:{export.path}", pretrained=True).eval()
        found = model(images)
        torch.testing.assert_close(found, selected.model(images), rtol=1e-4, atol=1e-4)
    with pytest.raises(StudyError, match="Leave out `trial`, `budget` or `architecture`"):
        export_model("tiny", "timm", tmp_path / "again", trial=0, **arguments)


def test_export_model_with_budget_exports_the_smallest_within_a_margin(workspace, tmp_path):
    selected = glora_automl.select("tiny", margin=60, workspace=workspace)
    export = export_model(
        "tiny", "timm", tmp_path / "out", budget=selected.budget, workspace=workspace
    )
    assert export.record.n_params == selected.selection.n_params == selected.ladder.chosen.n_params
    assert export.record.about["test"] == selected.rows[0].test._asdict()
    card = (export.path / "study.md").read_text(encoding="utf-8")
    assert "## Smaller adapters" in card
    assert f"at most {selected.budget:,} (smallest)" in card


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        (99, "must be one of the study 'tiny' \\(0 to 2\\), got 99"),
        ("last", "must be best or a number, got 'last'"),
        (-1, "must be best or a number, got '-1'"),
    ],
)
def test_export_model_of_missing_trial_raises(workspace, tmp_path, trial, words):
    with pytest.raises(StudyError, match=words):
        export_model("tiny", "timm", tmp_path / "out", trial=trial, workspace=workspace)
    assert not (tmp_path / "out").exists()


def test_export_model_of_trial_that_a_user_added_raises(tiny, tmp_path):
    workspace = Workspace(runs=tmp_path / "runs", device="cpu")
    found = search(tiny.replace(selection={"baselines": False}), workspace=workspace)
    first = found.study.trials[0]
    found.study.add_trial(
        create_trial(params=first.params, distributions=first.distributions, value=0.1)
    )
    with pytest.raises(StudyError, match="the key 'trainable_params' is required and missing"):
        export_model(
            "tiny", "timm", tmp_path / "x", trial=len(found.study.trials) - 1, workspace=workspace
        )


def test_export_model_of_failed_trial_raises(workspace, tmp_path):
    opened, _ = find_study("tiny", workspace)
    study = load_study(opened.opened_storage, "tiny")
    failed = study.ask()
    study.tell(failed, state=TrialState.FAIL)
    with pytest.raises(
        StudyError, match=f"trial {failed.number} of the study 'tiny', which is fail"
    ):
        export_model("tiny", "timm", tmp_path / "out", trial=failed.number, workspace=workspace)


def test_export_model_with_other_logits_keeps_existing_export(workspace, tmp_path, monkeypatch):
    first = export_model("tiny", "timm", tmp_path / "out", workspace=workspace)
    before = {file.name: file.read_bytes() for file in first.path.iterdir()}
    original = _timm.write_timm

    def shifted(folder, model, record):
        with torch.no_grad():
            model.get_classifier().bias[0] += 0.01
        return original(folder, model, record)

    monkeypatch.setattr(_export, "write_timm", shifted)
    with pytest.raises(ExportError, match="Logits of the timm model must differ by at most"):
        export_model("tiny", "timm", tmp_path / "out", force=True, workspace=workspace)
    assert {file.name: file.read_bytes() for file in first.path.iterdir()} == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "runs"]


def test_export_model_with_other_preprocessing_raises(workspace, tmp_path, monkeypatch):
    original = _timm.save_for_hf

    def other(model, folder, **keywords):
        original(model, folder, **keywords)
        path = Path(folder) / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["pretrained_cfg"]["mean"] = [0.1, 0.1, 0.1]
        path.write_text(json.dumps(config), encoding="utf-8")

    monkeypatch.setattr(_timm, "save_for_hf", other)
    with pytest.raises(
        ExportError, match=r"mean of timm's preprocessing must .*, got \(0\.1, 0\.1"
    ):
        export_model("tiny", "timm", tmp_path / "out", workspace=workspace)


@pytest.mark.parametrize("kind", ["peft", "onnx"])
def test_export_model_without_extra_raises_before_any_work(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, {"peft": "peft", "onnx": "onnxruntime"}[kind], None)
    with pytest.raises(ExportError, match=rf'pip install "glora-automl\[{kind}\]"'):
        export_model("none", kind, tmp_path / "out", workspace=Workspace(runs=tmp_path / "runs"))
    assert not list(tmp_path.iterdir())


def test_export_model_with_old_peft_raises(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", SimpleNamespace(__version__="0.19.1"))
    with pytest.raises(ExportError, match=r"must be 0\.20 or later, which has GLoRA, got 0\.19\.1"):
        export_model("none", "peft", tmp_path / "out", workspace=Workspace(runs=tmp_path / "runs"))


def test_export_model_with_unknown_format_raises(tmp_path):
    with pytest.raises(ExportError, match=r"`to` must be one of timm, .*, got 'onyx'"):
        export_model("none", "onyx", tmp_path / "out", workspace=Workspace(runs=tmp_path / "runs"))


def test_export_model_of_unfinished_study_exports_trials_only(tiny, tmp_path, monkeypatch):
    from glora_automl.commands import _search

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            _search, "final_test", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        settings = {"search": {"n_trials": 2}, "selection": {"baselines": False}}
        glora_automl.search(tiny.replace(**settings), workspace=Workspace(runs=tmp_path))
    with pytest.raises(StudyError, match=r"must be finished\. Run 'glora resume tiny'"):
        export_model("tiny", "timm", tmp_path / "out", workspace=Workspace(runs=tmp_path))
    export = export_model(
        "tiny", "timm", tmp_path / "out", trial=1, workspace=Workspace(runs=tmp_path)
    )
    assert export.record.about["weights"] == "inherited"
    export = export_model(
        "tiny", "backbone", tmp_path / "backbone", workspace=Workspace(runs=tmp_path)
    )
    assert export.record.architecture == ""


@pytest.mark.parametrize("selected", ["baseline", "preset"])
def test_model_card_without_trial_names_the_preset(tiny, tmp_path, monkeypatch, selected):
    from glora_automl.commands import _search

    recipe = tiny.replace(search={"n_trials": 1}, selection={"n_candidates": 1})
    if selected == "preset":
        recipe = recipe.replace(architecture="probe")

    def best_baseline(run, outcomes):
        return best_outcome(run, dict(list(outcomes.items())[-3:]))

    monkeypatch.setattr(_search, "best_outcome", best_baseline)
    workspace = Workspace(runs=tmp_path)
    result = glora_automl.search(recipe, workspace=workspace)
    export = export_model("tiny", "adapter", tmp_path / "out", workspace=workspace)
    about = export.record.about
    label = "linear probe" if selected == "preset" else result.selection.preset
    row = next(row for row in result.rows if row.name == label)
    assert about["preset"] == about["origin"] == label
    assert about["trial"] == (0 if selected == "preset" else None)
    assert about["validation"] == row.validation._asdict()
    assert about["test"] == row.test._asdict()
    card = (export.path / "README.md").read_text(encoding="utf-8")
    assert "trial None" not in card
    assert label in card.partition("## Load it")[0]


@pytest.fixture
def deep(tiny, tmp_path):
    """A recipe on 12-bit images in 16-bit files, of which test images are copies."""
    for split, count in (("train", 12), ("test", 3)):
        for digit, name in enumerate(("ant", "bee")):
            folder = tmp_path / "deep" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                grey = np.asarray(picture(digit, number).convert("L")).astype(np.uint16)
                Image.fromarray(grey * 16).save(folder / f"{number}.png")
    return tiny.replace(
        task={"source": "folder", "path": str(tmp_path / "deep"), "value_range": [0, 4080]},
        backbone={"pretraining": None, "kwargs": {"img_size": 16, "patch_size": 8}},
        training={"epochs": 1, "warmup_epochs": 0},
        search={"n_trials": 2},
        selection={"baselines": False, "n_candidates": 1},
    )


def test_export_model_of_deep_images_keeps_their_range_and_names_copies(deep, tmp_path):
    workspace = Workspace(runs=tmp_path / "runs")
    result = glora_automl.search(deep, workspace=workspace)
    assert result.data.n_dark == 0
    export = export_model("tiny", "timm", tmp_path / "out", workspace=workspace)
    card = (export.path / "README.md").read_text(encoding="utf-8")
    assert "values from 0 to 4080 in images of more than 8 bits" in card
    assert [note for note in result.data.notes() if f"- {note}" in card] == result.data.notes()
    assert "copies of train images" in card or "copy of a train image" in card
    images = tmp_path / "deep/test"
    same = tmp_path / "same"
    for path in images.rglob("*.png"):
        (same / path.parent.name).mkdir(parents=True, exist_ok=True)
        grey = np.asarray(Image.open(path)) // 16
        Image.fromarray(grey.astype(np.uint8)).save(same / path.parent.name / path.name)
    deep_ones, plain = (glora_automl.predict(export.path, folder) for folder in (images, same))
    assert torch.equal(deep_ones.probabilities, plain.probabilities)


def test_export_model_of_images_in_memory_takes_them_from_the_workspace(tiny, tmp_path):
    arrays = (
        np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8),
        np.repeat(["ant", "bee"], 20),
    )
    recipe = tiny.replace(
        task={"source": "arrays"},
        backbone={"pretraining": None},
        training={"epochs": 1, "warmup_epochs": 0},
        architecture="lora-1",
    )
    workspace = Workspace(runs=tmp_path / "runs")
    glora_automl.search(recipe, arrays=arrays, workspace=workspace)
    with pytest.raises(TaskError, match=r"Workspace\(data=\(images, labels\)\)"):
        export_model("tiny", "timm", tmp_path / "out", workspace=workspace)
    workspace = replace(workspace, data=arrays)
    export = export_model("tiny", "timm", tmp_path / "out", workspace=workspace)
    assert export.record.classes == ("ant", "bee")
    other = replace(workspace, data=(arrays[0][::-1].copy(), arrays[1]))
    with pytest.raises(StudyError, match="data"):
        export_model("tiny", "timm", tmp_path / "other", workspace=other)
