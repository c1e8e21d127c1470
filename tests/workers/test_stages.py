"""Stages: one of several workers does each of them once."""

import threading
import time
from dataclasses import asdict, dataclass

import optuna
import pytest
from filelock import FileLock
from optuna.trial import TrialState

from glora_automl.errors import Stopped, StudyError, TrainingError
from glora_automl.progress import LineProgress, Progress
from glora_automl.workers._stages import Stages, Work, stage_study_name
from glora_automl.workers._worker import Worker


@dataclass(frozen=True)
class Answer:
    """A small outcome."""

    x: int

    def to_json(self):
        return asdict(self)

    @classmethod
    def from_json(cls, table, /):
        if set(table) != {"x"}:
            raise StudyError("An answer must have `x`.")
        return cls(**table)


class Other(Answer):
    """An outcome of another type, of the same form."""


def work_of(do, kind=Answer):
    return Work(kind, do)


def answering(x):
    return work_of(lambda claim: Answer(x))


@pytest.fixture
def make_stages(storage, tmp_path):
    """Make the stages of one study for several workers, each in its own folder."""
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


def test_run_stage_of_a_study_that_was_deleted_meanwhile_raises_and_keeps_nothing(
    make_stages, storage
):
    stages, deleted = make_stages(), []

    def check():
        if deleted:
            raise StudyError("The study was deleted.")

    stages.check = check

    def do(claim):
        deleted.append(1)
        return Answer(1)

    with pytest.raises(StudyError, match="was deleted"):
        stages.run_one("a", work_of(do))
    assert [t.state for t in trials(storage)] == [TrialState.FAIL]


def run_together(function, members):
    """Call a function with each of the members at the same time."""
    threads = [threading.Thread(target=function, args=(member,)) for member in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_stages_run_done_stage_returns_the_kept_outcome(make_stages):
    calls = []
    works = {"a": work_of(lambda claim: calls.append(1) or Answer(1))}
    assert make_stages().run(works) == {"a": Answer(1)}
    assert make_stages().run(works) == {"a": Answer(1)}
    assert make_stages().run_one("a", works["a"]) == Answer(1)
    assert make_stages().outcome("a", Answer) == Answer(1)
    assert len(calls) == 1


def test_stages_outcome_is_read_as_the_given_type(make_stages):
    stages = make_stages()
    assert type(stages.run_one("a", work_of(lambda claim: Other(1)))) is Answer
    assert type(stages.outcome("a", Other)) is Other
    assert stages.outcome("b", Answer) is None


def test_stages_is_done_only_after_a_complete_attempt(make_stages):
    stages = make_stages()
    states = []
    assert not stages.is_done("a")
    stages.run({"a": work_of(lambda claim: states.append(stages.is_done("a")) or Answer(1))})
    assert states == [False]
    assert stages.is_done("a")
    assert not stages.is_done("b")
    assert not make_stages("other").is_done("a")


def test_stages_outcome_of_another_form_raises(make_stages, storage):
    class Text(Answer):
        def to_json(self):
            return {"text": "x"}

    with pytest.raises(StudyError, match="must have `x`"):
        make_stages().run({"a": work_of(lambda claim: Text(1))})
    assert [t.state for t in trials(storage)] == [TrialState.COMPLETE]


def test_stages_run_by_many_workers_at_once_does_each_once(make_stages):
    calls, outcomes = [], []
    gate = threading.Barrier(4)

    def do(claim):
        calls.append(threading.get_ident())
        time.sleep(0.3)
        return Answer(threading.get_ident())

    def run(stages):
        gate.wait()
        outcomes.append(stages.run({"a": work_of(do), "b": work_of(do)}))

    run_together(run, [make_stages() for _ in range(4)])
    assert len(calls) == 2
    assert len(outcomes) == 4
    assert all(outcome == outcomes[0] for outcome in outcomes)


def test_stages_run_while_another_worker_has_one_does_the_free_ones(make_stages):
    first, second = make_stages(), make_stages()
    started, released = threading.Event(), threading.Event()

    def slow(claim):
        started.set()
        assert released.wait(10)
        return Answer(1)

    thread = threading.Thread(target=first.run, args=({"a": work_of(slow)},))
    thread.start()
    started.wait(10)
    lines = []
    second._progress = LineProgress(lines.append)

    def quick(claim):
        released.set()
        return Answer(2)

    outcomes = second.run({"a": work_of(quick), "b": work_of(quick)})
    thread.join()
    assert outcomes == {"a": Answer(1), "b": Answer(2)}
    waiting = f"Waiting for the stage 'a' of worker {first._worker.name}."
    assert all(line == waiting for line in lines)


def test_stages_run_ends_at_the_last_outcome(make_stages):
    works = {name: answering(x) for name, x in (("a", 1), ("b", 2), ("c", 3))}
    stages = make_stages()
    found = stages.run(works, is_last=lambda answer: answer.x == 2)
    assert found == {"a": Answer(1), "b": Answer(2)}
    assert not stages.is_done("c")
    assert list(stages.run(works, is_last=lambda answer: answer.x > 9)) == ["a", "b", "c"]
    assert list(stages.run(works, is_last=lambda answer: answer.x == 1)) == ["a"]


def test_stages_run_in_order_is_shared_by_workers(make_stages):
    """A worker that finds a stage taken goes on with the next one."""
    first, second = make_stages(), make_stages()
    started, released = threading.Event(), threading.Event()
    done = []

    def slow(claim):
        started.set()
        assert released.wait(10)
        done.append("a")
        return Answer(1)

    def quick(claim):
        done.append("b")
        released.set()
        return Answer(2)

    works = {"a": work_of(slow), "b": work_of(quick), "c": answering(3)}

    def run(stages):
        return stages.run(works, is_last=lambda answer: answer.x == 1)

    thread = threading.Thread(target=run, args=(first,))
    thread.start()
    started.wait(10)
    assert run(second) == {"a": Answer(1)}
    thread.join()
    assert done == ["b", "a"]


def test_stages_run_with_another_key_does_not_count_the_outcome(make_stages):
    assert make_stages("k").run({"a": answering(1)}) == {"a": Answer(1)}
    assert make_stages("other").run({"a": answering(2)}) == {"a": Answer(2)}
    assert make_stages("k").outcome("a", Answer) == Answer(1)


@pytest.mark.parametrize("error", [TrainingError("no"), Stopped(), KeyboardInterrupt()])
def test_stages_run_failed_attempt_frees_the_stage_at_once(make_stages, storage, error):
    def failing(claim):
        claim.note("checkpoint", 7)
        raise error

    with pytest.raises(type(error)):
        make_stages().run({"a": work_of(failing)})
    assert [t.state for t in trials(storage)] == [TrialState.FAIL]
    checkpoints = []

    def again(claim):
        checkpoints.extend(attempt.get("checkpoint") for attempt in claim.earlier)
        return Answer(1)

    begin = time.monotonic()
    make_stages().run({"a": work_of(again)})
    assert time.monotonic() < begin + 2
    assert checkpoints == [7]


def test_stages_run_attempt_failed_as_stale_cannot_complete(make_stages, storage):
    """A machine resumes from suspension after another one has taken the stage over."""
    suspended, other = make_stages(), make_stages()
    lines = []
    suspended._progress = LineProgress(lines.append)
    attempts = []

    def do(claim):
        attempts.append(1)
        if len(attempts) == 1:
            storage.set_trial_state_values(claim._trial_id, TrialState.FAIL)
            other.run({"a": answering(2)})
        return Answer(1)

    assert suspended.run({"a": work_of(do)}) == {"a": Answer(2)}
    assert attempts == [1]
    assert lines[0] == "Another worker took the stage 'a' over; the work done here is dropped."
    states = [t.state for t in trials(storage)]
    assert states == [TrialState.FAIL, TrialState.COMPLETE]


def test_claim_note_of_attempt_failed_as_stale_raises(make_stages, storage):
    def do(claim):
        storage.set_trial_state_values(claim._trial_id, TrialState.FAIL)
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            claim.note("checkpoint", 1)
        raise Stopped

    with pytest.raises(Stopped):
        make_stages().run({"a": work_of(do)})


def test_stages_run_waits_for_the_process_that_holds_the_files(make_stages, storage, tmp_path):
    """Of two workers in one folder, the first was failed as stale and still runs."""
    (tmp_path / "machine1").mkdir()
    lines = []
    lock = FileLock(tmp_path / "machine1/.a.lock", thread_local=False)
    lock.acquire()
    timer = threading.Timer(1.0, lock.release)
    timer.start()
    begin = time.monotonic()
    stages = make_stages(progress=LineProgress(lines.append))
    assert stages.run({"a": answering(1), "b": answering(2)})["a"] == Answer(1)
    assert time.monotonic() >= begin + 1.0
    assert len(lines) == 1
    assert lines[0].startswith(
        "Waiting for the stage 'a' of another process, which holds its files"
    )
    assert str(tmp_path / "machine1") in lines[0]
    assert [t.state for t in trials(storage)] == [TrialState.COMPLETE] * 2
    timer.join()


def test_stages_run_removes_torn_files_and_checkpoints_of_the_stage_alone(make_stages, tmp_path):
    folder = tmp_path / "machine1"
    folder.mkdir()
    kept = [
        folder / name
        for name in (
            "b.json",
            ".b.json.0a1b2c3d.glora.tmp",
            "ab.json",
            "a-r2.12.safetensors",
            ".a-r2.json.0a1b2c3d.glora.tmp",
        )
    ]
    removed = [
        folder / "a.json",
        folder / "a.12.safetensors",
        folder / ".a.json.0a1b2c3d.glora.tmp",
    ]
    for path in kept + removed:
        path.touch()
    during = []

    def do(claim):
        during.extend(path.exists() for path in removed)
        return Answer(1)

    make_stages().run({"a": work_of(do)})
    assert during == [True, True, False]
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in removed)


def test_stages_exclusively_runs_every_call_and_never_two_at_once(make_stages):
    active, most, results = [], [], []

    def call():
        active.append(1)
        most.append(len(active))
        time.sleep(0.1)
        active.pop()
        return len(most)

    def run(stages):
        results.append(stages.exclusively("settings", call))

    run_together(run, [make_stages() for _ in range(3)])
    assert most == [1, 1, 1]
    assert sorted(results) == [1, 2, 3]


def test_stages_exclusively_runs_a_second_call_of_one_worker(make_stages):
    stages, results = make_stages(), iter((1, 2))
    assert [stages.exclusively("settings", lambda: next(results)) for _ in range(2)] == [1, 2]


def test_stages_of_a_finished_study_are_read_without_writing(make_stages, storage, monkeypatch):
    make_stages().run_one("a", answering(1))

    def refuse(*args, **kwargs):
        raise AssertionError("a read-only storage")

    for name in ("create_new_study", "create_new_trial", "set_study_user_attr"):
        monkeypatch.setattr(storage, name, refuse)
    assert make_stages().run_one("a", answering(2)) == Answer(1)
