"""Stages: each is done once, by whoever comes first."""

import threading
import time

import optuna
import pytest
from filelock import FileLock
from optuna.trial import TrialState

from glora_automl.errors import Stopped, TrainingError
from glora_automl.progress import LineProgress, Progress
from glora_automl.workers._stages import Stages, stage_study_name
from glora_automl.workers._worker import Worker


@pytest.fixture
def member(storage, tmp_path):
    """Makes workers of one study, each in a folder of its own."""
    workers = []

    def make(key="k", progress=None, stop=None):
        worker = Worker(storage, heartbeat=1.0, stop=stop).__enter__()
        workers.append(worker)
        folder = tmp_path / f"machine{len(workers)}"
        return Stages("s", storage, worker, folder, progress or Progress(), key)

    yield make
    for worker in workers:
        worker.__exit__()


def trials(storage):
    study = optuna.load_study(study_name=stage_study_name("s"), storage=storage)
    return study.get_trials(deepcopy=False)


def test_an_outcome_is_found_by_others(member):
    calls = []
    work = {"a": lambda claim: calls.append(1) or {"x": 1}}
    assert member().run(work) == {"a": {"x": 1}}
    assert member().run(work) == {"a": {"x": 1}}
    assert member().outcome("a") == {"x": 1}
    assert len(calls) == 1


def test_of_many_who_start_together_one_does_it(member):
    members = [member() for _ in range(4)]
    calls, found = [], []
    gate = threading.Barrier(4)

    def work(claim):
        calls.append(threading.get_ident())
        time.sleep(0.3)
        return {"by": threading.get_ident()}

    def take_part(stages):
        gate.wait()
        found.append(stages.run({"a": work, "b": work}))

    threads = [threading.Thread(target=take_part, args=(m,)) for m in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 2
    assert len(found) == 4
    assert all(outcome == found[0] for outcome in found)


def test_free_stages_are_done_while_others_are_at_the_rest(member):
    first, second = member(), member()
    started, goon = threading.Event(), threading.Event()

    def slow(claim):
        started.set()
        assert goon.wait(10)
        return {"who": "first"}

    thread = threading.Thread(target=first.run, args=({"a": slow},))
    thread.start()
    started.wait(10)
    lines = []
    second._progress = LineProgress(lines.append)

    def quick(claim):
        goon.set()
        return {"who": "second"}

    outcomes = second.run({"a": quick, "b": quick})
    thread.join()
    assert outcomes == {"a": {"who": "first"}, "b": {"who": "second"}}
    assert all(line.startswith(f"Waiting for {first._worker.name}") for line in lines)


def test_outcomes_of_other_settings_do_not_count(member):
    assert member("k").run({"a": lambda claim: {"x": 1}}) == {"a": {"x": 1}}
    assert member("other").run({"a": lambda claim: {"x": 2}}) == {"a": {"x": 2}}
    assert member("k").outcome("a") == {"x": 1}


@pytest.mark.parametrize("error", [TrainingError("no"), Stopped(), KeyboardInterrupt()])
def test_a_failed_attempt_frees_the_stage_at_once(member, storage, error):
    def work(claim):
        claim.note("checkpoint", 7)
        raise error

    with pytest.raises(type(error)):
        member().run({"a": work})
    assert [t.state for t in trials(storage)] == [TrialState.FAIL]
    seen = []

    def again(claim):
        seen.extend(attempt.get("checkpoint") for attempt in claim.earlier)
        return {}

    begin = time.monotonic()
    member().run({"a": again})
    assert time.monotonic() < begin + 2
    assert seen == [7]


def test_who_was_taken_for_dead_cannot_finish_any_more(member, storage):
    """A machine that was asleep wakes up after another one has taken over."""
    asleep, awake = member(), member()
    lines = []
    asleep._progress = LineProgress(lines.append)
    attempts = []

    def work(claim):
        attempts.append(1)
        if len(attempts) == 1:
            storage.set_trial_state_values(claim._trial_id, TrialState.FAIL)
            awake.run({"a": lambda claim: {"who": "awake"}})
        return {"who": "asleep"}

    assert asleep.run({"a": work}) == {"a": {"who": "awake"}}
    assert attempts == [1]
    assert "taken for dead" in lines[0]
    states = [t.state for t in trials(storage)]
    assert states == [TrialState.FAIL, TrialState.COMPLETE]


def test_notes_of_who_was_taken_for_dead_are_refused(member, storage):
    def work(claim):
        storage.set_trial_state_values(claim._trial_id, TrialState.FAIL)
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            claim.note("checkpoint", 1)
        raise Stopped

    with pytest.raises(Stopped):
        member().run({"a": work})


def test_files_of_a_stage_have_one_process(member, storage, tmp_path):
    """Of two in one folder the first was taken for dead, and is still at it."""
    (tmp_path / "machine1").mkdir()
    lines = []
    lock = FileLock(tmp_path / "machine1/.a.lock", thread_local=False)
    lock.acquire()
    timer = threading.Timer(1.0, lock.release)
    timer.start()
    begin = time.monotonic()
    stages = member(progress=LineProgress(lines.append))
    assert stages.run({"a": lambda claim: {"x": 1}, "b": lambda claim: {}})["a"] == {"x": 1}
    assert time.monotonic() >= begin + 1.0
    assert len(lines) == 1
    assert "another process, which has the files of the stage 'a'" in lines[0]
    assert [t.state for t in trials(storage)] == [TrialState.COMPLETE] * 2
    timer.join()


def test_torn_files_and_finished_checkpoints_of_the_stage_alone_are_removed(member, tmp_path):
    folder = tmp_path / "machine1"
    folder.mkdir()
    kept = [folder / "b.json", folder / ".b.json.0a1b2c3d.tmp", folder / "ab.json"]
    gone = [folder / "a.json", folder / "a-12.safetensors", folder / ".a.json.0a1b2c3d.tmp"]
    for path in kept + gone:
        path.touch()
    seen = []
    member().run({"a": lambda claim: seen.extend(p.exists() for p in gone) or {}})
    assert seen == [True, True, False]
    assert [path.exists() for path in kept + gone] == [True] * 3 + [False] * 3


def test_exclusive_work_is_done_by_each_and_never_at_once(member):
    members = [member() for _ in range(3)]
    inside, most, results = [], [], []

    def work():
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.1)
        inside.pop()
        return len(most)

    def take_part(stages):
        results.append(stages.exclusively("settings", work))

    threads = [threading.Thread(target=take_part, args=(m,)) for m in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    assert sorted(results) == [1, 2, 3]
