"""Signs of life, and what becomes of trials whose worker is dead."""

import os
import signal
import threading
import time

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from glora_automl.errors import Stopped
from glora_automl.progress import LineProgress
from glora_automl.storages import open_storage
from glora_automl.workers import _worker
from glora_automl.workers._worker import OWNER, Worker
from tests.processes import start


@pytest.fixture
def study(storage):
    return optuna.create_study(storage=storage)


def worker_of(study, **options):
    return Worker(study._storage, heartbeat=1.0, **options)


def elsewhere(monkeypatch, name):
    """From now on, this process is on another machine."""
    monkeypatch.setattr(_worker, "_scope", lambda: name)


def test_a_trial_names_its_worker_from_its_first_moment(study):
    with worker_of(study) as worker:
        worker.create(study, stage="x")
    (trial,) = study.trials
    assert trial.state == TrialState.RUNNING
    assert trial.user_attrs == {"worker": worker.name, "stage": "x"}
    assert trial.system_attrs[OWNER]["name"] == worker.name


def test_a_queued_trial_is_taken_and_named(study):
    study.enqueue_trial({"x": 0.25})
    with worker_of(study) as worker:
        trial = worker.ask(study, queued=True)
        assert trial.suggest_float("x", 0, 1) == 0.25
        study.tell(trial, 1.0)
    (trial,) = study.trials
    assert trial.user_attrs["worker"] == worker.name
    assert trial.system_attrs[OWNER]["name"] == worker.name


def test_a_trial_that_is_told_alive_stays(study, monkeypatch):
    elsewhere(monkeypatch, "there")
    with worker_of(study) as worker:
        trial = worker.ask(study)
        with worker.beating(trial._trial_id):
            elsewhere(monkeypatch, "here")
            other = worker_of(study)
            end = time.monotonic() + 4.5
            while time.monotonic() < end:
                other.fail_dead(study, at_once=True)
                time.sleep(0.2)
        assert study.tell(trial, 1.0).state == TrialState.COMPLETE


def test_a_trial_that_is_silent_too_long_is_failed(study, monkeypatch):
    elsewhere(monkeypatch, "there")
    worker_of(study).ask(study)  # its thread is not started: it never beats
    elsewhere(monkeypatch, "here")
    other = worker_of(study)
    begin = time.monotonic()
    while study.trials[0].state == TrialState.RUNNING:
        other.fail_dead(study, at_once=True)
        assert time.monotonic() < begin + 8
        time.sleep(0.1)
    assert time.monotonic() > begin + 1.9
    assert study.trials[0].state == TrialState.FAIL


def ask_and_die(url):
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    Worker(study._storage, heartbeat=600).ask(study)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_died_here_is_not_waited_for(tmp_path):
    url = f"sqlite:///{tmp_path}/a.db"
    assert start(ask_and_die, url, folder=tmp_path).wait() == -signal.SIGKILL
    study = optuna.load_study(study_name="s", storage=open_storage(url))
    assert study.trials[0].state == TrialState.RUNNING
    Worker(study._storage, heartbeat=600).fail_dead(study)
    assert study.trials[0].state == TrialState.FAIL


def test_the_same_process_id_in_another_container_is_not_looked_at(study, monkeypatch):
    elsewhere(monkeypatch, "there")
    trial_id = worker_of(study).create(study)
    identity = dict(study.trials[0].system_attrs[OWNER], pid=2**22 + 1)
    study._storage.set_trial_system_attr(trial_id, OWNER, identity)
    elsewhere(monkeypatch, "here")
    worker_of(study).fail_dead(study, at_once=True)
    assert study.trials[0].state == TrialState.RUNNING
    elsewhere(monkeypatch, "there")
    worker_of(study).fail_dead(study, at_once=True)
    assert study.trials[0].state == TrialState.FAIL


def test_a_trial_without_a_heartbeat_of_optuna_is_failed_too(tmp_path, monkeypatch):
    """On a storage of Optuna's own a worker may die before it has written the first one."""
    study = optuna.create_study(storage=RDBStorage(f"sqlite:///{tmp_path}/a.db"))
    monkeypatch.setattr(_worker, "beat", lambda *args, **keywords: None)
    elsewhere(monkeypatch, "there")
    worker_of(study).ask(study)
    by_hand = study.ask()
    elsewhere(monkeypatch, "here")
    other = worker_of(study)
    end = time.monotonic() + 4.5
    while time.monotonic() < end:
        other.fail_dead(study, at_once=True)
        time.sleep(0.2)
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.RUNNING]
    assert study.tell(by_hand, 1.0).state == TrialState.COMPLETE, "who asked by hand is let be"


def test_nobody_is_failed_for_a_storage_that_was_away(tmp_path, monkeypatch):
    storage = open_storage(f"sqlite:///{tmp_path}/a.db")
    study = optuna.create_study(storage=storage)
    elsewhere(monkeypatch, "there")
    worker_of(study).ask(study)
    elsewhere(monkeypatch, "here")
    other = worker_of(study)
    other.fail_dead(study, at_once=True)
    time.sleep(3.5)
    storage.last_trouble = time.monotonic()  # it is back now, and nobody could beat until now
    other.fail_dead(study, at_once=True)
    assert study.trials[0].state == TrialState.RUNNING
    storage.last_trouble -= 3.5
    other.fail_dead(study, at_once=True)
    assert study.trials[0].state == TrialState.FAIL
    storage.engine.dispose()


def test_a_worker_learns_that_its_trial_was_taken_over(study):
    with worker_of(study) as worker:
        trial = worker.ask(study)
        with worker.beating(trial._trial_id):
            assert not worker.wants_stop()
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            end = time.monotonic() + 5
            while not worker.wants_stop():
                assert time.monotonic() < end
                time.sleep(0.05)
            assert worker.has_lost(trial._trial_id)
        assert not worker.wants_stop()


def test_a_lost_answer_makes_no_second_trial(tmp_path, monkeypatch):
    storage = open_storage(f"sqlite:///{tmp_path}/a.db")
    study = optuna.create_study(storage=storage)
    create = storage._backend._create_new_trial
    lost = []

    def lose(*args, **keywords):
        found = create(*args, **keywords)
        if not lost:
            lost.append(1)
            gone = OperationalError("insert", None, RuntimeError("connection reset"))
            raise StorageInternalError("lost") from gone
        return found

    monkeypatch.setattr(storage._backend, "_create_new_trial", lose)
    worker = worker_of(study)
    trial = worker.ask(study)
    assert trial.number == 0
    assert lost
    assert len(study.trials) == 1
    assert worker.ask(study).number == 1
    storage.engine.dispose()


def test_settling_waits_for_those_who_are_alive_and_says_so(study):
    lines = []
    with worker_of(study) as busy:
        trial = busy.ask(study)

        def finish():
            with busy.beating(trial._trial_id):
                time.sleep(1.0)
            study.tell(trial, 1.0)

        thread = threading.Thread(target=finish)
        thread.start()
        with worker_of(study, progress=LineProgress(lines.append)) as other:
            other.settle(study)
        thread.join()
    assert [t.state for t in study.trials] == [TrialState.COMPLETE]
    assert lines == ["Waiting for trials of other workers (0), at most 4 s."]


def test_settling_does_not_wait_for_trials_that_came_later(study):
    with worker_of(study) as busy, worker_of(study) as worker:
        first = busy.ask(study)

        def go_on():
            time.sleep(0.5)
            busy.ask(study)
            study.tell(first, 1.0)

        thread = threading.Thread(target=go_on)
        thread.start()
        begin = time.monotonic()
        worker.settle(study)
        assert time.monotonic() < begin + 2
        thread.join()
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING]


def test_it_stops_where_it_is_asked_to(study):
    worker = worker_of(study, stop=lambda: True)
    with pytest.raises(Stopped):
        worker.check_stop()
    with pytest.raises(Stopped):
        worker.wait()
    worker_of(study).check_stop()
