"""The cache of trials, after other processes changed what it holds."""

import contextlib
import sqlite3

import optuna
import pytest
from optuna.storages import RDBStorage

from glora_automl.errors import StorageError
from glora_automl.storages import _cache, open_storage, storage_errors


def url_of(path):
    return f"sqlite:///{path}"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "studies.db"


@pytest.fixture
def opened():
    """A function that opens storages, whose connections are closed at the end."""
    storages = []

    def open_(url):
        storages.append(open_storage(url))
        return storages[-1]

    yield open_
    for storage in storages:
        storage.engine.dispose()


def draw(trial):
    return trial.suggest_float("x", 0, 1)


def restored(path, backup):
    """Restore a backup of a database under its open connections, as SQLite's shell does."""
    closing, connect = contextlib.closing, sqlite3.connect
    with closing(connect(backup)) as source, closing(connect(path)) as target:
        source.backup(target)


def back_up(path):
    copy = path.with_name("backup.db")
    restored(copy, path)
    return copy


def test_get_trials_after_study_was_deleted_and_begun_again_reads_the_new_trials(path, opened):
    name = {"study_name": "a"}
    seen = optuna.create_study(**name, storage=opened(url_of(path)))
    seen.optimize(draw, n_trials=3)
    assert len(seen.trials) == 3
    other = opened(url_of(path))
    optuna.delete_study(**name, storage=other)
    begun = optuna.create_study(**name, storage=other)
    assert begun._study_id == seen._study_id, "SQLite uses the id again"
    begun.optimize(draw, n_trials=2)
    assert seen.trials == begun.trials


@pytest.mark.parametrize("n_more", [0, 1, 5])
def test_get_trials_after_older_backup_was_restored_reads_its_trials(path, opened, n_more):
    study = optuna.create_study(study_name="a", storage=opened(url_of(path)))
    running = study.ask()
    study.optimize(draw, n_trials=2)
    backup = back_up(path)
    study.tell(running, 0.5)
    study.optimize(draw, n_trials=2)
    lost = study.ask()
    assert len(study.trials) == 6
    restored(path, backup)
    other = optuna.load_study(study_name="a", storage=opened(url_of(path)))
    other.optimize(draw, n_trials=n_more)
    assert study.trials == other.trials
    assert [t.number for t in study.trials] == list(range(3 + n_more))
    assert study.trials[0].state == optuna.trial.TrialState.RUNNING
    if n_more == 0:
        with pytest.raises(StorageError, match="older backup"), storage_errors():
            lost.suggest_float("x", 0, 1)


def test_cache_with_changed_parts_of_optuna_is_that_of_optuna(path, opened, monkeypatch):
    for parts in ("_PARTS", "_STUDY_PARTS"):
        with monkeypatch.context() as patch:
            patch.setattr(_cache, parts, {"_renamed"})
            storage = opened(url_of(path))
        study = optuna.create_study(study_name=parts, storage=storage)
        study.optimize(draw, n_trials=2)
        other = opened(url_of(path))
        optuna.delete_study(study_name=parts, storage=other)
        begun = optuna.create_study(study_name=parts, storage=other)
        assert begun._study_id == study._study_id
        assert len(study.trials) == 2, "Optuna keeps what it has read"
        optuna.delete_study(study_name=parts, storage=other)


def test_cache_of_a_backend_of_optuna_is_that_of_optuna(path):
    backend = RDBStorage(url_of(path))
    study = optuna.create_study(storage=_cache.CheckedCache(backend))
    study.optimize(draw, n_trials=2)
    assert len(study.trials) == 2
    backend.engine.dispose()
