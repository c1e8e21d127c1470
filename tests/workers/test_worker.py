"""Heartbeats, and the stale trials of other workers."""

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
from glora_automl.workers._worker import CLAIM, OWNER, Worker
from tests.processes import start


@pytest.fixture
def study(storage):
    return optuna.create_study(storage=storage)


def worker_of(study, **options):
    return Worker(study._storage, heartbeat=1.0, **options)


def move_to(monkeypatch, name):
    """Let this process pretend to be on another machine."""
    monkeypatch.setattr(_worker, "_scope", lambda: name)


def test_worker_create_names_the_worker_in_the_trial(study):
    with worker_of(study) as worker:
        worker.create(study, stage="x")
    (trial,) = study.trials
    assert trial.state == TrialState.RUNNING
    assert trial.user_attrs == {"worker": worker.name, "stage": "x"}
    assert trial.system_attrs[OWNER]["name"] == worker.name


def test_worker_ask_queued_takes_and_names_the_queued_trial(study):
    study.enqueue_trial({"x": 0.25})
    with worker_of(study) as worker:
        trial = worker.ask(study, queued=True)
        assert trial.suggest_float("x", 0, 1) == 0.25
        study.tell(trial, 1.0)
    (trial,) = study.trials
    assert trial.user_attrs["worker"] == worker.name
    assert trial.system_attrs[OWNER]["name"] == worker.name


def test_worker_fail_stale_spares_a_trial_with_heartbeats(study, monkeypatch):
    move_to(monkeypatch, "there")
    with worker_of(study) as worker:
        trial = worker.ask(study)
        with worker.heartbeats(trial._trial_id):
            move_to(monkeypatch, "here")
            other = worker_of(study)
            end = time.monotonic() + 4.5
            while time.monotonic() < end:
                other.fail_stale(study, at_once=True)
                time.sleep(0.2)
        assert study.tell(trial, 1.0).state == TrialState.COMPLETE


def test_worker_fail_stale_fails_a_trial_without_heartbeats(study, monkeypatch):
    move_to(monkeypatch, "there")
    worker_of(study).ask(study)  # Its thread is not started, so it writes no heartbeat.
    move_to(monkeypatch, "here")
    other = worker_of(study)
    begin = time.monotonic()
    while study.trials[0].state == TrialState.RUNNING:
        other.fail_stale(study, at_once=True)
        assert time.monotonic() < begin + 8
        time.sleep(0.1)
    assert time.monotonic() > begin + 1.9
    assert study.trials[0].state == TrialState.FAIL


def ask_and_be_killed(url):
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    Worker(study._storage, heartbeat=600).ask(study)
    os.kill(os.getpid(), signal.SIGKILL)


def test_worker_fail_stale_fails_a_killed_process_of_this_machine_at_once(tmp_path):
    url = f"sqlite:///{tmp_path}/a.db"
    assert start(ask_and_be_killed, url, folder=tmp_path).wait() == -signal.SIGKILL
    study = optuna.load_study(study_name="s", storage=open_storage(url))
    assert study.trials[0].state == TrialState.RUNNING
    Worker(study._storage, heartbeat=600).fail_stale(study)
    assert study.trials[0].state == TrialState.FAIL


def test_worker_fail_stale_ignores_process_ids_of_another_container(study, monkeypatch):
    move_to(monkeypatch, "there")
    trial_id = worker_of(study).create(study)
    identity = dict(study.trials[0].system_attrs[OWNER], pid=2**22 + 1)
    study._storage.set_trial_system_attr(trial_id, OWNER, identity)
    move_to(monkeypatch, "here")
    worker_of(study).fail_stale(study, at_once=True)
    assert study.trials[0].state == TrialState.RUNNING
    move_to(monkeypatch, "there")
    worker_of(study).fail_stale(study, at_once=True)
    assert study.trials[0].state == TrialState.FAIL


def test_worker_fail_stale_fails_a_trial_without_a_heartbeat_of_optuna(tmp_path, monkeypatch):
    """With Optuna's own storage a worker may be killed before its first heartbeat."""
    study = optuna.create_study(storage=RDBStorage(f"sqlite:///{tmp_path}/a.db"))
    monkeypatch.setattr(_worker, "record_heartbeat", lambda *args, **keywords: None)
    move_to(monkeypatch, "there")
    worker_of(study).ask(study)
    by_hand = study.ask()
    move_to(monkeypatch, "here")
    other = worker_of(study)
    end = time.monotonic() + 4.5
    while time.monotonic() < end:
        other.fail_stale(study, at_once=True)
        time.sleep(0.2)
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.RUNNING]
    assert study.tell(by_hand, 1.0).state == TrialState.COMPLETE, "trials of users are spared"


def test_worker_fail_stale_after_a_storage_outage_fails_no_trial(tmp_path, monkeypatch):
    storage = open_storage(f"sqlite:///{tmp_path}/a.db")
    study = optuna.create_study(storage=storage)
    move_to(monkeypatch, "there")
    worker_of(study).ask(study)
    move_to(monkeypatch, "here")
    other = worker_of(study)
    other.fail_stale(study, at_once=True)
    time.sleep(3.5)
    storage.last_trouble = time.monotonic()  # Available again, as of now.
    other.fail_stale(study, at_once=True)
    assert study.trials[0].state == TrialState.RUNNING
    storage.last_trouble -= 3.5
    other.fail_stale(study, at_once=True)
    assert study.trials[0].state == TrialState.FAIL
    storage.engine.dispose()


def test_worker_was_failed_after_another_worker_failed_its_trial(study):
    with worker_of(study) as worker:
        trial = worker.ask(study)
        with worker.heartbeats(trial._trial_id):
            assert not worker.wants_stop()
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            end = time.monotonic() + 5
            while not worker.wants_stop():
                assert time.monotonic() < end
                time.sleep(0.05)
            assert worker.was_failed(trial._trial_id)
        assert not worker.wants_stop()


def test_worker_ask_after_a_lost_answer_creates_no_second_trial(tmp_path, monkeypatch):
    storage = open_storage(f"sqlite:///{tmp_path}/a.db")
    study = optuna.create_study(storage=storage)
    create = storage._backend._create_new_trial
    lost = []

    def lose_first_answer(*args, **keywords):
        row = create(*args, **keywords)
        if not lost:
            lost.append(1)
            reset = OperationalError("insert", None, RuntimeError("connection reset"))
            raise StorageInternalError("lost") from reset
        return row

    monkeypatch.setattr(storage._backend, "_create_new_trial", lose_first_answer)
    worker = worker_of(study)
    trial = worker.ask(study)
    assert trial.number == 0
    assert lost
    assert len(study.trials) == 1
    assert worker.ask(study).number == 1
    storage.engine.dispose()


def test_worker_wait_for_running_waits_for_live_workers_and_logs_it(study):
    lines = []
    with worker_of(study) as busy:
        trial = busy.ask(study)

        def finish():
            with busy.heartbeats(trial._trial_id):
                time.sleep(1.0)
            study.tell(trial, 1.0)

        thread = threading.Thread(target=finish)
        thread.start()
        with worker_of(study, progress=LineProgress(lines.append)) as other:
            other.wait_for_running(study)
        thread.join()
    assert [t.state for t in study.trials] == [TrialState.COMPLETE]
    assert lines == ["Waiting for trials of other workers (0), at most 4 s."]


def test_worker_wait_for_running_ignores_later_trials(study):
    with worker_of(study) as busy, worker_of(study) as worker:
        first = busy.ask(study)

        def ask_and_finish():
            time.sleep(0.5)
            busy.ask(study)
            study.tell(first, 1.0)

        thread = threading.Thread(target=ask_and_finish)
        thread.start()
        begin = time.monotonic()
        worker.wait_for_running(study)
        assert time.monotonic() < begin + 2
        thread.join()
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING]


def test_worker_asked_to_stop_raises_stopped(study):
    worker = worker_of(study, stop=lambda: True)
    with pytest.raises(Stopped):
        worker.check_stop()
    with pytest.raises(Stopped):
        worker.wait()
    worker_of(study).check_stop()


class Killed(BaseException):
    """The end of a worker at a chosen moment."""


@pytest.mark.parametrize("key", [CLAIM, OWNER])
def test_worker_killed_while_it_takes_a_queued_trial_leaves_a_stale_one(study, monkeypatch, key):
    study.enqueue_trial({"x": 0.25})
    move_to(monkeypatch, "there")
    killed = worker_of(study)
    write = study._storage.set_trial_system_attr

    def die(trial_id, name, value):
        if name == key:
            raise Killed
        write(trial_id, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(study._storage, "set_trial_system_attr", die)
        with pytest.raises(Killed):
            killed.ask(study, queued=True)
    move_to(monkeypatch, "here")
    other = worker_of(study)
    begin = time.monotonic()
    while study.trials[0].state == TrialState.RUNNING:
        other.fail_stale(study, at_once=True)
        assert time.monotonic() < begin + 8
        time.sleep(0.1)
    assert study.trials[0].state == (TrialState.WAITING if key == CLAIM else TrialState.FAIL)


def test_worker_ask_queued_with_an_empty_queue_creates_a_trial(study):
    study.enqueue_trial({"x": 0.25})
    first, second = worker_of(study), worker_of(study)
    assert first.ask(study, queued=True).number == 0
    assert second.ask(study, queued=True).number == 1


def test_worker_fail_stale_fails_its_own_trial_that_it_does_not_run(study):
    """Such as one of an older backup."""
    with worker_of(study) as worker:
        trial = worker.ask(study)
        with worker.heartbeats(trial._trial_id):
            worker.fail_stale(study, at_once=True)
            assert study.trials[0].state == TrialState.RUNNING
        worker.fail_stale(study, at_once=True)
    assert study.trials[0].state == TrialState.FAIL


def test_worker_owns_its_trials_alone(study):
    first, second = worker_of(study), worker_of(study)
    trial = first.ask(study)
    assert first.owns(trial._trial_id)
    assert not second.owns(trial._trial_id)
    assert not first.owns(study.ask()._trial_id)


@pytest.mark.parametrize(
    "owner", ["text", 3, [], {}, {"scope": 1}, {"pid": "x"}, {"pid": -1}, {"pid": 10**30}, None]
)
def test_worker_fail_stale_with_an_altered_owner_does_not_fail_at_once(study, owner, monkeypatch):
    move_to(monkeypatch, "here")
    if isinstance(owner, dict):
        owner = {"scope": "here", **owner}
    trial = study.ask()
    study._storage.set_trial_system_attr(trial._trial_id, OWNER, owner)
    worker_of(study).fail_stale(study, at_once=True)
    assert study.trials[0].state == TrialState.RUNNING
