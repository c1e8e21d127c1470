"""Searches that are interrupted, on this machine and with artifacts that are gone."""

from functools import partial

import optuna
import pytest

from glora_automl.commands import resume, search
from glora_automl.errors import CheckpointError, StorageError
from glora_automl.pipeline import Context, Workspace, _baselines, _final_test, _selection
from glora_automl.pipeline._shared_checkpoint import SharedCheckpoint
from glora_automl.study import stage_costs, summarize
from glora_automl.supernet import Scorer
from glora_automl.training import _position
from tests.commands.interrupts import (
    figures,
    interrupt_after,
    interrupt_training,
    run_interrupted,
)
from tests.commands.studies import artifact_path, load

INTERRUPTS = {
    "after the backbone": partial(interrupt_after, owner=Context, name="create_backbone"),
    "in the supernet's training": partial(interrupt_training, stage="supernet", checkpoints=3),
    "in the first trial": partial(interrupt_after, owner=Scorer, name="score"),
    "in the sixth trial": partial(interrupt_after, owner=Scorer, name="score", calls=6),
    "in the selection's training": partial(interrupt_training, stage="selection", checkpoints=2),
    "at the end of the selection": partial(
        interrupt_after, owner=_selection, name="validate", calls=2
    ),
    "between two baselines": partial(
        interrupt_after, owner=_baselines, name="train_adapter", calls=2
    ),
    "in a baseline's training": partial(interrupt_training, stage="baseline-BitFit"),
    "in the refit's training": partial(interrupt_training, stage="refit"),
    "at the end of the refit": partial(interrupt_after, owner=_selection, name="adapter_outcome"),
    "in the test": partial(interrupt_after, owner=_final_test, name="score_model", calls=2),
    "after the winner's files": partial(interrupt_after, owner=_final_test, name="save_checkpoint"),
}
"""Interrupts in the order in which one study meets them."""


def test_search_interrupted_everywhere_equals_uninterrupted(finished, tiny, workspace, monkeypatch):
    """One study meets all interrupts in turn; each of them must come."""
    for interrupt in INTERRUPTS.values():
        run_interrupted(monkeypatch, interrupt, tiny, workspace=workspace)
    assert figures(search(tiny, workspace=workspace)) == figures(finished)


def test_search_interrupted_training_continues_from_its_checkpoint(tiny, workspace, monkeypatch):
    """Otherwise its images would be trained on twice, and no figure would show it."""
    interrupt = partial(interrupt_training, stage="supernet", checkpoints=5)
    run_interrupted(monkeypatch, interrupt, tiny, workspace=workspace)
    saved, original = [], _position.save_checkpoint
    monkeypatch.setattr(
        _position, "save_checkpoint", lambda path, *a: saved.append(path.name) or original(path, *a)
    )
    search(tiny, workspace=workspace)
    # A checkpoint every 2 of 12 epochs: the sixth is the only one left.
    assert sum(name.startswith("supernet") for name in saved) == 1


def test_search_trial_interrupted_twice_is_evaluated_once(finished, tiny, workspace, monkeypatch):
    for calls in (3, 1):
        interrupt = partial(interrupt_after, owner=Scorer, name="score", calls=calls)
        run_interrupted(monkeypatch, interrupt, tiny, workspace=workspace)
    result = search(tiny, workspace=workspace)
    assert figures(result) == figures(finished)
    assert summarize(result.study)["trials"]["failed"] == 2


def test_search_interrupted_pretraining_continues(finished, tiny, workspace, monkeypatch):
    recipe = tiny.replace(backbone={"pretraining": {"checkpoint_every": 1}})
    interrupt = partial(interrupt_after, owner=_position, name="save_checkpoint", calls=2)
    run_interrupted(monkeypatch, interrupt, recipe, workspace=workspace)
    (unfinished,) = (workspace.folder / "backbones").glob("*-training.json")
    states, original = [], _position.save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(_position, "save_checkpoint", lambda *a: states.append(a[2]) or original(*a))
        result = search(recipe, workspace=workspace)
    assert sum("pretraining" in state["stage"] for state in states) == 2
    assert not unfinished.exists()
    assert figures(result)[3] == figures(finished)[3]


@pytest.fixture
def interrupted(tiny, workspace, monkeypatch):
    """A study that was interrupted in its fourth trial."""
    interrupt = partial(interrupt_after, owner=Scorer, name="score", calls=4)
    run_interrupted(monkeypatch, interrupt, tiny, workspace=workspace)
    return load(workspace)


@pytest.mark.parametrize("what", ["backbone", "supernet"])
def test_search_altered_artifact_raises_and_adds_no_trial(interrupted, what, tiny, workspace):
    weights = artifact_path(interrupted, what)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    n_trials = len(interrupted.trials)
    with pytest.raises(CheckpointError, match=r"must have sha256 .*altered or cut short"):
        search(tiny, workspace=workspace)
    complete = [t for t in interrupted.trials if t.state.is_finished()]
    assert len(complete) == 4
    assert len(interrupted.trials) <= n_trials + 1  # the retry of the interrupted one


@pytest.mark.parametrize("what", ["backbone", "supernet"])
def test_search_missing_artifact_raises_with_a_hint(interrupted, what, tiny, workspace):
    artifact_path(interrupted, what).unlink()
    with pytest.raises(CheckpointError, match=r"is missing\. Set `artifacts`"):
        search(tiny, workspace=workspace)


def test_search_missing_artifact_folder_raises_until_it_is_named(interrupted, tiny, tmp_path):
    (tmp_path / "artifacts").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"`artifacts` must be a folder of this machine"):
        search(tiny, workspace=Workspace(runs=tmp_path))
    place = str(tmp_path / "elsewhere")
    assert search(tiny, workspace=Workspace(runs=tmp_path, artifacts=place)).rows


def test_resume_copy_of_a_runs_folder_uses_the_copy_alone(interrupted, tmp_path):
    copy = tmp_path / "elsewhere/copy"
    copy.mkdir(parents=True)
    interrupted._storage._backend.engine.dispose()
    for path in (*tmp_path.glob("studies.db*"), tmp_path / "artifacts"):
        path.rename(copy / path.name)
    n_files = len(list((copy / "artifacts").iterdir()))
    assert resume("tiny", workspace=Workspace(runs=copy)).rows
    assert len(list((copy / "artifacts").iterdir())) > n_files
    assert not (tmp_path / "artifacts").exists()


def test_resume_users_own_attribute_is_kept(interrupted, workspace):
    interrupted.set_user_attr("note", "mine")
    assert resume("tiny", workspace=workspace).study.user_attrs["note"] == "mine"


def test_resume_without_the_newest_shared_checkpoint_equals_uninterrupted(
    finished, tiny, tmp_path, monkeypatch
):
    def interrupt(patch):
        interrupt_after(patch, SharedCheckpoint, "publish", 2)
        patch.setattr(SharedCheckpoint, "max_upload_share", 1e9)

    storage = f"sqlite:///{tmp_path}/first/studies.db"
    first = Workspace(runs=tmp_path / "first")
    run_interrupted(monkeypatch, interrupt, tiny, workspace=first)
    stages = optuna.load_study(study_name="tiny/stages", storage=storage)
    (attempt,) = [t for t in stages.trials if "checkpoint" in t.user_attrs]
    newest = attempt.user_attrs["checkpoint"]["artifact"]["id"]
    (tmp_path / "first/artifacts" / newest).unlink()
    result = resume("tiny", workspace=Workspace(storage=storage, runs=tmp_path / "second"))
    assert figures(result) == figures(finished)


def test_search_shared_checkpoints_are_removed_after_their_stage(tiny, workspace, monkeypatch):
    found, artifacts = [], workspace.folder / "artifacts"
    original = SharedCheckpoint.publish

    def publish(self, path):
        original(self, path)
        found.append(len(list(artifacts.iterdir())))

    monkeypatch.setattr(SharedCheckpoint, "publish", publish)
    monkeypatch.setattr(SharedCheckpoint, "max_upload_share", 1e9)
    search(tiny.replace(selection={"baselines": False}), workspace=workspace)
    assert found == [3] * 6  # the study's mark, backbone and newest checkpoint
    # Mark, backbone, supernet, selected and refit adapter, predictions of the selected one.
    assert len(list(artifacts.iterdir())) == 6


def test_search_checkpoints_of_other_images_are_ignored(tiny, tmp_path, monkeypatch):
    workspace = Workspace(runs=tmp_path)
    interrupt = partial(interrupt_training, stage="supernet", checkpoints=3)
    run_interrupted(monkeypatch, interrupt, tiny, workspace=workspace)
    (tmp_path / "studies.db").unlink()
    assert list((tmp_path / "tiny").glob("supernet.*.json"))
    recipe = tiny.replace(task={"validation_per_class": 10}, selection={"baselines": False})
    found = search(recipe, workspace=workspace)
    fresh = search(recipe, workspace=Workspace(runs=tmp_path / "fresh"))
    assert figures(found) == figures(fresh)


def test_search_finished_stage_leaves_no_checkpoint_here(finished, finished_runs):
    names = {path.name for path in (finished_runs / "tiny").iterdir()}
    kept = {name for name in names if not name.startswith(".")}
    assert {name.partition("-")[0].partition(".")[0] for name in kept} == {"winner"}


def test_stage_costs_after_an_interrupt_count_each_image_once(
    finished, tiny, workspace, monkeypatch
):
    interrupt = partial(interrupt_training, stage="selection", checkpoints=2)
    run_interrupted(monkeypatch, interrupt, tiny, workspace=workspace)
    again = search(tiny, workspace=workspace)

    def images(study):
        found = {}
        for cost in stage_costs(study):  # of two workers
            trained, evaluated = found.get(cost.stage, (0, 0))
            found[cost.stage] = trained + cost.n_trained, evaluated + cost.n_evaluated
        return found

    assert images(again.study) == images(finished.study)
