import dataclasses
import os

import optuna
import pytest
from optuna.storages import InMemoryStorage

from glora_automl.errors import GLoRAError, StorageError
from glora_automl.pipeline import Workspace
from glora_automl.storages import PatientStorage


def test_workspace_defaults_are_in_the_runs_folder(tmp_path):
    workspace = Workspace(runs=str(tmp_path / "runs"))
    assert workspace.folder == tmp_path / "runs"
    assert workspace.storage_location == f"sqlite:///{tmp_path}/runs/studies.db"
    assert not workspace.folder.exists()
    opened = workspace.with_open_storage()
    assert (tmp_path / "runs/studies.db").exists()
    assert opened.open_artifacts().location == str(tmp_path / "runs/artifacts")


def test_workspace_is_frozen_and_takes_keywords_only(tmp_path):
    with pytest.raises(dataclasses.FrozenInstanceError):
        Workspace().runs = tmp_path
    with pytest.raises(TypeError):
        Workspace(tmp_path)


def test_with_open_storage_keeps_the_other_fields(tmp_path):
    workspace = Workspace(runs=tmp_path, device="cpu", heartbeat=3.0, data="images")
    opened = workspace.with_open_storage()
    assert dataclasses.replace(opened, storage=None) == workspace
    assert opened.opened_storage is opened.with_open_storage().opened_storage


def test_with_open_storage_takes_any_optuna_storage():
    storage = InMemoryStorage()
    assert Workspace(storage=storage).with_open_storage().opened_storage is storage


def test_with_open_storage_without_create_raises_and_creates_nothing(tmp_path):
    with pytest.raises(StorageError):
        Workspace(runs=tmp_path / "runs").with_open_storage(create=False)
    assert list(tmp_path.iterdir()) == []


def test_with_open_storage_of_a_path_is_a_journal(tmp_path):
    workspace = Workspace(storage=str(tmp_path / "a.log")).with_open_storage()
    optuna.create_study(study_name="s", storage=workspace.opened_storage)
    assert (tmp_path / "a.log").stat().st_size > 0


def test_with_open_storage_stops_waiting_when_the_workspace_stops(tmp_path):
    def stop():
        return False

    opened = Workspace(runs=tmp_path, stop=stop).with_open_storage().opened_storage
    assert isinstance(opened, PatientStorage)
    assert opened.stop is stop


def test_opened_storage_before_opening_fails():
    with pytest.raises(AssertionError, match="open the storage first"):
        _ = Workspace().opened_storage


def test_open_artifacts_prefers_its_own_store_to_the_known_one(tmp_path):
    known, own = str(tmp_path / "known"), str(tmp_path / "own")
    for folder in ("known", "own"):
        (tmp_path / folder).mkdir()
    assert Workspace(runs=tmp_path).open_artifacts(known).location == known
    assert Workspace(runs=tmp_path, artifacts=own).open_artifacts(known).location == own
    with pytest.raises(StorageError, match="must be a folder of this machine"):
        Workspace(runs=tmp_path).open_artifacts(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    "change",
    [
        {"patience": float("nan")},
        {"patience": -1},
        {"patience": float("inf")},
        {"patience": "1"},
        {"heartbeat": float("inf")},
        {"heartbeat": 0.5},
        {"heartbeat": 10**400},
        {"runs": ""},
        {"runs": "a\0b"},
        {"runs": "x" * 10_000},
        {"runs": "~nosuchuser/x"},
        {"data": "\ud800"},
        {"artifacts": "a\0b"},
        {"storage": ""},
        {"storage": "sqlite:///a\0b"},
        {"device": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_workspace_value_out_of_bounds_raises_with_its_name(change):
    with pytest.raises(GLoRAError, match=f"^{next(iter(change))} must be") as caught:
        Workspace(**change)
    assert len(str(caught.value)) <= 300


def test_with_open_storage_removes_old_temporary_files_of_killed_processes(tmp_path):
    cache = tmp_path / "backbones"
    cache.mkdir()
    left = cache / ".a.json.01234567.glora.tmp"
    left.write_text("half", encoding="utf-8")
    os.utime(left, (0, 0))
    Workspace(runs=tmp_path).with_open_storage().opened_storage.engine.dispose()
    assert not left.exists()
