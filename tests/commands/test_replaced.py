"""Studies that are deleted, begun again or replaced by a backup while they are searched."""

import contextlib
import sqlite3

import optuna
import pytest
from optuna.trial import TrialState

from glora_automl.commands import search
from glora_automl.errors import StorageError, StudyError
from glora_automl.pipeline import Workspace, _selection
from glora_automl.samplers import trial_positions
from glora_automl.storages import open_storage
from glora_automl.supernet import Scorer

ALONE = {"selection": {"baselines": False, "refit": False}}


@pytest.fixture(params=["sqlite", "journal"])
def url(request, tmp_path):
    return {"sqlite": f"sqlite:///{tmp_path}/a.db", "journal": f"{tmp_path}/a.log"}[request.param]


@pytest.fixture
def recipe(tiny):
    return tiny.replace(search={"n_trials": 8}, **ALONE)


def workspace_of(tmp_path, storage):
    return Workspace(runs=tmp_path / "runs", storage=storage, device="cpu", heartbeat=1.0)


def call_once(monkeypatch, owner, name, function):
    """Call a function before the first call of another one."""
    original, called = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        if not called:
            called.append(1)
            function()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


def delete(url, *names):
    storage = open_storage(url)
    for name in names:
        optuna.delete_study(study_name=name, storage=storage)


def complete(study):
    trials = study.get_trials(deepcopy=False)
    positions = trial_positions(trials)
    assert all(trial.state.is_finished() for trial in trials)
    return {positions[t.number]: t.params for t in trials if t.state == TrialState.COMPLETE}


@pytest.mark.parametrize("names", [("tiny",), ("tiny", "tiny/stages")])
@pytest.mark.parametrize("stage", ["search", "selection"])
def test_search_of_a_study_that_is_deleted_meanwhile_raises(
    recipe, url, tmp_path, monkeypatch, stage, names
):
    owner, name = {
        "search": (Scorer, "score"),
        "selection": (_selection, "train_candidates"),
    }[stage]
    with monkeypatch.context() as patch:
        call_once(patch, owner, name, lambda: delete(url, *names))
        with pytest.raises((StudyError, StorageError), match="deleted") as caught:
            search(recipe, workspace=workspace_of(tmp_path, url))
    assert "\n" not in str(caught.value)


def test_search_deleted_and_begun_again_in_one_process_begins_from_the_start(recipe, url, tmp_path):
    storage = open_storage(url)
    workspace = workspace_of(tmp_path, storage)
    first = search(recipe, workspace=workspace)
    expected = complete(first.study)
    ended = max(trial.datetime_complete for trial in first.study.trials)
    delete(url, "tiny")
    again = search(recipe, workspace=workspace)
    assert complete(again.study) == expected
    assert min(trial.datetime_start for trial in again.study.trials) > ended
    stages = optuna.load_study(study_name="tiny/stages", storage=storage).trials
    trained = [t for t in stages if t.user_attrs["stage"] == "supernet"]
    assert len(trained) == 2, "nothing of the deleted study counts"


def test_search_of_a_study_begun_again_by_another_process_raises(
    recipe, url, tmp_path, monkeypatch
):
    def begin_again():
        delete(url, "tiny")
        search(recipe, workspace=workspace_of(tmp_path / "other", url))

    with monkeypatch.context() as patch:
        call_once(patch, Scorer, "score", begin_again)
        with pytest.raises((StudyError, StorageError), match="deleted"):
            search(recipe, workspace=workspace_of(tmp_path, url))
    study = optuna.load_study(study_name="tiny", storage=open_storage(url))
    assert len(study.trials) == len(complete(study)) == 8


def test_search_goes_on_after_an_older_backup_was_restored(recipe, tmp_path, monkeypatch):
    live, backup = tmp_path / "a.db", tmp_path / "backup.db"
    url, scored, score = f"sqlite:///{live}", [], Scorer.score

    def copy(source, target):
        closing, connect = contextlib.closing, sqlite3.connect
        with closing(connect(source)) as a, closing(connect(target)) as b:
            a.backup(b)

    def score_and_restore(*args, **kwargs):
        found = score(*args, **kwargs)
        scored.append(1)
        if len(scored) == 3:
            copy(live, backup)
        if len(scored) == 6:
            copy(backup, live)
        return found

    expected = complete(search(recipe, workspace=Workspace(runs=tmp_path / "expected")).study)
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", score_and_restore)
        with pytest.raises(StorageError, match="older backup"):
            search(recipe, workspace=workspace_of(tmp_path, url))
    result = search(recipe, workspace=workspace_of(tmp_path, url))
    assert complete(result.study) == expected
    assert len(scored) == 6
