"""MLflow, Weights & Biases and TensorBoard, each with its own package and without a server."""

import time

import pytest

from glora_automl import Workspace, search
from glora_automl.errors import RecipeError, Stopped
from glora_automl.trackers import (
    GuardedTracker,
    MLflowTracker,
    TensorBoardTracker,
    WandbTracker,
    open_tracker,
)
from glora_automl.trackers._open import TRACKERS


class Memory:
    """Tracker that keeps its calls."""

    def __init__(self):
        self.settings, self.numbers, self.files, self.ended = {}, {}, [], None

    def start(self, study, settings, folder):
        self.settings = {"study": study, **settings}

    def log(self, group, values, step):
        for key, value in values.items():
            self.numbers.setdefault(f"{group}/{key}", []).append((step, value))

    def add_file(self, path):
        self.files.append(path.name)

    def finish(self, *, failed):
        self.ended = failed


SHORT = {"search": {"n_trials": 3}, "selection": {"baselines": False, "n_candidates": 1}}


def test_search_records_stages_epochs_trials_and_result(tiny, tmp_path):
    tracker = Memory()
    result = search(
        tiny.replace(**SHORT), workspace=Workspace(runs=tmp_path / "runs", trackers=[tracker])
    )
    assert tracker.settings["study"] == "tiny"
    assert tracker.settings["training.epochs"] == tiny.training.epochs
    numbers = tracker.numbers
    steps = [step for step, _ in numbers["Train supernet/loss"]]
    assert steps == [*range(1, len(steps) + 1)]
    assert len(steps) == tiny.epochs(tiny.supernet.epochs_ratio)
    assert numbers["Train supernet/seconds"][0][1] > 0
    values = [(trial.number, trial.value) for trial in result.study.trials]
    assert numbers["trials/value"] == values
    (row,) = result.rows
    assert numbers[f"result/{row.name}/test_accuracy"] == [(0, row.test.accuracy)]
    assert "winner.json" in tracker.files
    assert any(name.endswith(".safetensors") for name in tracker.files)
    assert tracker.ended is False


def test_search_that_is_stopped_ends_its_tracker(tiny, tmp_path):
    tracker, asked = Memory(), []

    def stop():
        asked.append(1)
        return len(asked) > 40

    with pytest.raises(Stopped):
        search(tiny, workspace=Workspace(runs=tmp_path, trackers=[tracker], stop=stop))
    assert tracker.ended is True


def test_guarded_tracker_leaves_out_a_broken_one():
    class Broken(Memory):
        def log(self, group, values, step):
            raise OSError("no route to host")

    lines, good, broken = [], Memory(), Broken()
    guarded = GuardedTracker([broken, good], lines.append)
    guarded.log("trials", {"value": 1.0}, 0)
    guarded.log("trials", {"value": 2.0}, 1)
    assert good.numbers == {"trials/value": [(0, 1.0), (1, 2.0)]}
    assert lines == ["Broken is left out from here on: no route to host"]


def record(tracker, folder):
    """Record a run as a search does."""
    folder.mkdir(exist_ok=True)
    (folder / "winner.json").write_text("{}", encoding="utf-8")
    tracker.start("digits", {"budget": 4000, "metric": "accuracy"}, folder)
    for step in (1, 2):
        tracker.log("Baseline: LoRA r=2", {"loss": 1.0 / step}, step)
    tracker.log("trials", {"value": 0.5, "trainable_params": 100}, 7)
    tracker.add_file(folder / "winner.json")
    tracker.finish(failed=False)


def test_mlflow_tracker_records_a_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    record(MLflowTracker(), tmp_path / "study")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("glora_automl")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("digits", "FINISHED")
    assert run.data.params == {"budget": "4000", "metric": "accuracy"}
    assert run.data.metrics["trials/trainable_params"] == 100
    history = client.get_metric_history(run.info.run_id, "Baseline_ LoRA r_2/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5)]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["winner.json"]


def test_wandb_tracker_records_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "study"
    tracker = WandbTracker()
    record(tracker, folder)
    (written,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    keys = {b"trials/value", b"Baseline: LoRA r=2/loss", b"metric", b"winner.json"}
    end = time.monotonic() + 60
    while missing := {key for key in keys if key not in written.read_bytes()}:
        assert time.monotonic() < end, missing
        time.sleep(0.1)  # wandb's own process writes the file


def test_tensorboard_tracker_writes_events(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record(TensorBoardTracker(), tmp_path / "study")
    events = EventAccumulator(str(tmp_path / "study/tensorboard"))
    events.Reload()
    (tag,) = [tag for tag in events.Tags()["scalars"] if tag.endswith("/loss")]
    assert [(event.step, event.value) for event in events.Scalars(tag)] == [(1, 1.0), (2, 0.5)]
    assert "recipe/text_summary" in events.Tags()["tensors"]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_open_tracker_without_its_package_names_the_extra(monkeypatch, name):
    import sys

    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RecipeError, match=rf'pip install "glora-automl\[{name}\]"'):
        open_tracker(name)


def test_open_tracker_whose_package_refuses_the_environment_is_one_line(monkeypatch):
    def refuse():
        raise RuntimeError("foo://me:gehe1m99@bar is no\nregistry")

    monkeypatch.setitem(TRACKERS, "mlflow", refuse)
    with pytest.raises(RecipeError, match="mlflow must be usable, got: foo") as caught:
        open_tracker("mlflow")
    assert "\n" not in str(caught.value)
    assert "gehe1m99" not in str(caught.value)
