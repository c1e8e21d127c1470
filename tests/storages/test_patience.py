"""Databases that are temporarily unreachable."""

import pickle
import sqlite3
import time

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError

from glora_automl.errors import StorageError
from glora_automl.storages import PatientStorage, hold_writes, open_storage, storage_errors
from glora_automl.storages._patience import lost_connection


class ServerError(Exception):
    """An error of the driver of a server."""


def connection_error():
    return OperationalError("select 1", None, ServerError("server closed the connection"))


class Flaky(RDBStorage):
    """A database that is unreachable for some calls, before or after their work."""

    n_failures: int = 0
    method: str = ""
    after: bool = False

    def _flaky(self, method, call):
        if method != self.method or self.n_failures == 0:
            return call()
        self.n_failures -= 1
        if self.after:
            call()
        raise StorageInternalError("lost") from connection_error()

    def set_trial_state_values(self, *args, **kwargs):
        call = super().set_trial_state_values
        return self._flaky("set_trial_state_values", lambda: call(*args, **kwargs))

    def set_trial_user_attr(self, *args, **kwargs):
        call = super().set_trial_user_attr
        return self._flaky("set_trial_user_attr", lambda: call(*args, **kwargs))

    def _create_new_trial(self, *args, **kwargs):
        call = super()._create_new_trial
        return self._flaky("create", lambda: call(*args, **kwargs))


@pytest.fixture
def flaky(tmp_path, monkeypatch):
    backend = Flaky(f"sqlite:///{tmp_path}/a.db")
    slept = []
    monkeypatch.setattr("glora_automl.storages._patience.time.sleep", slept.append)
    storage = PatientStorage(backend, patience=60)
    storage.slept = slept
    yield storage
    backend.engine.dispose()


class TestOptunaSuite(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path):
        opened = open_storage(f"sqlite:///{tmp_path}/a.db")
        assert isinstance(opened, PatientStorage)
        yield opened
        opened.engine.dispose()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("method", ["set_trial_state_values", "set_trial_user_attr"])
def test_call_with_unreachable_database_is_retried(flaky, method, after, caplog):
    study = optuna.create_study(storage=flaky)
    trial = study.ask()
    backend = flaky._backend
    backend.method, backend.n_failures, backend.after = method, 4, after
    trial.set_user_attr("a", 1)
    study.tell(trial, 0.5)
    (found,) = study.trials
    assert (found.state, found.value, found.user_attrs) == (TrialState.COMPLETE, 0.5, {"a": 1})
    # The second attempt finds a state that was set before the answer was lost.
    assert len(flaky.slept) == (1 if after and method == "set_trial_state_values" else 4)
    assert sorted(flaky.slept) == flaky.slept, "delays grow"
    assert caplog.text.count("does not answer") == 1


def test_create_trial_with_lost_answer_creates_another(flaky):
    study = optuna.create_study(storage=flaky)
    backend = flaky._backend
    backend.method, backend.n_failures, backend.after = "create", 1, True
    trial = study.ask()
    study.tell(trial, 0.5)
    assert [t.state for t in study.trials] == [TrialState.RUNNING, TrialState.COMPLETE]


def test_set_state_after_other_worker_raises(flaky):
    study = optuna.create_study(storage=flaky)
    trial = study.ask()
    other = PatientStorage(RDBStorage(str(flaky.engine.url)))
    other.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    backend = flaky._backend
    backend.method, backend.n_failures = "set_trial_state_values", 1
    with pytest.raises(UpdateFinishedTrialError):
        flaky.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.5])


def test_call_after_patience_raises(tmp_path):
    storage = PatientStorage(Flaky(f"sqlite:///{tmp_path}/a.db"), patience=0.3)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    storage._backend.method, storage._backend.n_failures = "set_trial_user_attr", 1000
    begin = time.monotonic()
    message = r"server closed the connection\. Repeat the call"
    with pytest.raises(StorageError, match=message), storage_errors():
        trial.set_user_attr("a", 1)
    assert time.monotonic() - begin >= 0.25
    storage.engine.dispose()


def test_hold_writes_after_lost_connection_keeps_writes(tmp_path, monkeypatch):
    storage = open_storage(f"sqlite:///{tmp_path}/a.db", patience=60)
    study = optuna.create_study(storage=storage)
    monkeypatch.setattr("glora_automl.storages._patience.time.sleep", lambda seconds: None)
    left = 3

    def fail(*_):
        nonlocal left
        if left:
            left -= 1
            raise connection_error()

    def objective(trial):
        with hold_writes(storage):
            x = trial.suggest_categorical("x", ["a", "b"])
            trial.set_user_attr("x", x)
            sqlalchemy.event.listen(storage.engine, "before_cursor_execute", fail)
        return 1.0

    study.optimize(objective, n_trials=1)
    sqlalchemy.event.remove(storage.engine, "before_cursor_execute", fail)
    assert left == 0
    (trial,) = study.trials
    assert trial.state == TrialState.COMPLETE
    assert trial.user_attrs["x"] == trial.params["x"]
    storage.engine.dispose()


def sqlite_error(name):
    error = sqlite3.OperationalError("message")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (connection_error(), True),
        (InterfaceError("q", None, ServerError()), True),
        (sqlalchemy.exc.TimeoutError("pool"), True),
        (OperationalError("q", None, sqlite_error("SQLITE_BUSY")), True),
        (OperationalError("q", None, sqlite_error("SQLITE_BUSY_SNAPSHOT")), True),
        (OperationalError("q", None, sqlite_error("SQLITE_FULL")), False),
        (OperationalError("q", None, sqlite_error("SQLITE_READONLY")), False),
        (IntegrityError("q", None, ServerError()), False),
        (KeyError("x"), False),
    ],
)
def test_lost_connection_is_true_for_temporary_errors(error, expected):
    assert lost_connection(error) == expected
    wrapped = StorageInternalError("wrapped")
    wrapped.__cause__ = error
    assert lost_connection(wrapped) == expected


def test_patient_storage_is_picklable(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path}/a.db", patience=7)
    optuna.create_study(study_name="s", storage=storage)
    again = pickle.loads(pickle.dumps(storage))
    assert again.patience == 7
    assert optuna.get_all_study_names(again) == ["s"]
    for opened in (storage, again):
        opened.engine.dispose()
