"""Signs of life, and what becomes of trials whose worker is dead."""

import subprocess
import sys
import threading
import time

import optuna
import pytest
from optuna.trial import TrialState

from glora_automl.errors import Stopped
from glora_automl.progress import LineProgress
from glora_automl.storages import open_storage
from glora_automl.study import _worker
from glora_automl.study._worker import OWNER, Worker


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


def test_a_process_that_died_here_is_not_waited_for(tmp_path):
    url = f"sqlite:///{tmp_path}/a.db"
    code = (
        "import optuna, os, sys\n"
        "from glora_automl.storages import open_storage\n"
        "from glora_automl.study._worker import Worker\n"
        f"study = optuna.create_study(study_name='s', storage=open_storage({url!r}))\n"
        "Worker(study._storage, heartbeat=600).ask(study)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
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
