"""Trials of several workers, without loss and without repetition."""

import threading
import time

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from glora_automl.errors import Stopped, StudyError, TrainingError
from glora_automl.progress import LineProgress, Progress
from glora_automl.samplers import EvolutionSampler, trial_positions
from glora_automl.workers._positions import Positions
from glora_automl.workers._trials import MAX_RETRIES, Evaluation, _enqueue_retries, run_trials
from glora_automl.workers._worker import OWNER, Worker, fail


def same_generation(first, second):
    return first // 4 == second // 4


OPTIONS = {"independent": None}
"""Arguments of :func:`run_trials` in this module."""


@pytest.fixture(scope="module", autouse=True, params=[None, same_generation])
def _sequential_and_overlapping(request):
    OPTIONS["independent"] = request.param
    yield
    OPTIONS["independent"] = None


SPACE = {f"x{i}": CategoricalDistribution(("a", "b", "c")) for i in range(6)}


def study_of(storage):
    return optuna.create_study(
        study_name="s",
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        # Given, so that it does not depend on the complete trials.
        sampler=EvolutionSampler(population_size=4, n_parents=2, seed=0, search_space=SPACE),
    )


def propose(trial):
    xs = [trial.suggest_categorical(f"x{i}", ["a", "b", "c"]) for i in range(6)]
    if not trial.constraints:
        trial.set_constraint("trainable_params", xs.count("c") - 4)
    return lambda: Evaluation((xs.count("a") / 6,), {"length": len(xs)})


def search(storage, target=20, proposal=propose, **options):
    progress = options.pop("progress", Progress())
    with Worker(storage, heartbeat=1.0, **options) as worker:
        study = study_of(storage)
        run_trials(
            study, proposal, worker=worker, target=lambda: target, progress=progress, **OPTIONS
        )
    return study


def complete(study):
    """Return parameters and values of the complete trials by position."""
    trials = study.get_trials(deepcopy=False)
    positions = trial_positions(trials)
    done = [t for t in trials if t.state == TrialState.COMPLETE]
    return [(t.params, t.value) for t in sorted(done, key=lambda t: positions[t.number])]


def check(study, target):
    """Assert one complete trial per position, and no unfinished trial."""
    trials = study.get_trials(deepcopy=False)
    assert all(t.state.is_finished() for t in trials)
    positions = trial_positions(trials)
    filled = [positions[t.number] for t in trials if t.state == TrialState.COMPLETE]
    assert sorted(filled) == list(range(target))


def test_run_trials_of_one_worker_creates_no_surplus_trial(storage):
    study = search(storage)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 20
    assert all(t.user_attrs["length"] == 6 for t in study.trials)
    search(storage)
    assert len(study.trials) == 20


def test_run_trials_of_several_workers_reaches_the_target_exactly(storage):
    def slowly(trial):
        evaluate = propose(trial)

        def score():
            time.sleep(0.01)
            return evaluate()

        return score

    failures = []

    def take_part():
        try:
            search(storage, 30, slowly)
        except BaseException as error:
            failures.append(error)

    study_of(storage)
    threads = [threading.Thread(target=take_part) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    study = study_of(storage)
    check(study, 30)
    assert len({t.user_attrs["worker"] for t in study.trials}) >= 2  # The journal's lock is unfair.


class Interrupt(BaseException):
    pass


def interrupted(after, where):
    """Return a proposal that ends its worker in the n-th trial, before or in its evaluation."""
    count = 0

    def proposal(trial):
        nonlocal count
        count += 1
        number = count
        evaluate = propose(trial)
        if number == after and where == "proposal":
            raise Interrupt

        def score():
            if number == after:
                raise Interrupt
            return evaluate()

        return score

    return proposal


@pytest.mark.parametrize("where", ["proposal", "evaluation"])
@pytest.mark.parametrize("after", [1, 7])
def test_run_trials_interrupted_trial_is_retried_at_its_position(storage, after, where):
    with pytest.raises(Interrupt):
        search(storage, proposal=interrupted(after, where))
    queued = study_of(storage).trials[-1]
    assert queued.state == TrialState.WAITING, "the next worker must not wait"
    study = search(storage)
    check(study, 20)
    assert complete(study) == complete(search(InMemoryStorage()))
    failed = [t for t in study.trials if t.state == TrialState.FAIL]
    retries = [t for t in study.trials if "retry_history" in t.system_attrs]
    assert 1 <= len(retries) <= (1 if OPTIONS["independent"] is None else 2)
    tried = [n for t in retries for n in t.system_attrs["retry_history"]]
    assert [t.number for t in failed] == sorted(tried)
    if where == "evaluation":
        assert sorted(map(str, (t.params for t in failed))) == sorted(
            map(str, (t.params for t in retries))
        )


def test_run_trials_stores_parameters_before_the_evaluation(storage):
    states = []

    def proposal(trial):
        evaluate = propose(trial)

        def score():
            # Another thread does not see the writes that this thread holds back.
            def read():
                stored = study_of(storage).get_trials(deepcopy=False)[trial.number]
                states.append((stored.state, len(stored.params), dict(stored.constraints)))

            thread = threading.Thread(target=read)
            thread.start()
            thread.join()
            return evaluate()

        return score

    search(storage, 2, proposal)
    assert [s[:2] for s in states] == [(TrialState.RUNNING, 6)] * 2
    assert all("trainable_params" in s[2] for s in states)


def test_run_trials_result_of_a_trial_failed_as_stale_is_dropped(storage):
    lines, failed = [], []

    def proposal(trial):
        evaluate = propose(trial)

        def score():
            if not failed:
                failed.append(trial.number)
                storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            return evaluate()

        return score

    study = search(storage, 5, proposal, progress=LineProgress(lines.append))
    check(study, 5)
    assert study.trials[0].state == TrialState.FAIL
    assert any("failed trial 0 as stale" in line for line in lines)


def test_run_trials_evaluation_stopped_because_the_trial_was_failed_is_dropped(storage):
    study = study_of(storage)
    stopped = []

    def taken_once(trial):
        evaluate = propose(trial)

        def run():
            if not stopped:
                fail(storage, trial._trial_id)  # as another worker does after a long pause
                end = time.monotonic() + 20
                while not worker.wants_stop() and time.monotonic() < end:
                    time.sleep(0.02)
                stopped.append(worker.wants_stop())
                raise Stopped("The training stopped.")
            return evaluate()

        return run

    with Worker(storage, heartbeat=1) as worker:
        run_trials(study, taken_once, worker=worker, target=lambda: 3, progress=Progress())
    assert stopped == [True]
    check(study, 3)


def test_run_trials_value_not_finite_raises(storage):
    with pytest.raises(TrainingError, match=r"got nan in trial 0\. Lower `training\.lr`"):
        search(
            storage,
            proposal=lambda trial: propose(trial) and (lambda: Evaluation((float("nan"),), {})),
        )
    assert not complete(study_of(storage))


def test_run_trials_always_failing_trial_raises_after_max_retries(storage):
    interruptions = 0
    with pytest.raises(StudyError, match=f"within {MAX_RETRIES} retries.*memory"):
        while interruptions <= 3 * MAX_RETRIES:
            try:
                search(storage, proposal=interrupted(1, "evaluation"))
            except Interrupt:
                interruptions += 1
    # Of two overlapping trials, either one fails first.
    if OPTIONS["independent"] is None:
        assert interruptions == MAX_RETRIES + 1
    else:
        assert interruptions > MAX_RETRIES


def test_run_trials_asked_to_stop_stops_between_trials(storage):
    asked = iter([False] * 30 + [True] * 100)
    with pytest.raises(Stopped):
        search(storage, 1000, stop=lambda: next(asked))
    trials = study_of(storage).trials
    assert 0 < len(trials) < 100
    assert all(t.state == TrialState.COMPLETE for t in trials)


def run_until(storage, target, lines=()):
    """Search with a number of trials that changes."""
    progress = LineProgress(lines.append) if isinstance(lines, list) else Progress()
    with Worker(storage, heartbeat=1.0) as worker:
        study = study_of(storage)
        run_trials(
            study,
            propose,
            worker=worker,
            target=lambda: target(study.get_trials(deepcopy=False)),
            progress=progress,
            **OPTIONS,
        )
    return study


def test_run_trials_target_raised_meanwhile_is_reached(storage):
    check(run_until(storage, lambda trials: 5 if len(trials) < 5 else 9), 9)


def test_run_trials_target_lowered_meanwhile_ends_with_the_trials_there(storage):
    lines = []
    study = run_until(storage, lambda trials: 20 if len(trials) < 7 else 3, lines)
    assert 7 <= len(study.trials) <= 8
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}
    assert "The search ends with 3 of 20 trials." in lines
    check(search(storage, 12), 12)


def test_run_trials_target_lowered_empties_the_queue(storage):
    study = search(storage, 3)
    with Worker(storage) as worker:
        study.tell(worker.ask(study), state=TrialState.FAIL)
    _enqueue_retries(study, study.trials[3:])
    search(storage, 2)
    assert [t.state for t in study.trials[3:]] == [TrialState.FAIL] * 2
    check(search(storage, 5), 5)


def test_run_trials_enqueued_architecture_is_evaluated(storage):
    params = {f"x{i}": "a" for i in range(6)}
    study_of(storage).enqueue_trial(params)
    study = search(storage, 5)
    assert study.trials[0].params == params
    check(study, 5)


def test_run_trials_surplus_failed_trial_is_retried_after_the_target_is_raised(storage):
    """A worker that was too late for the last position has left a failed trial."""
    study = search(storage, 3)
    with Worker(storage) as worker:
        trial = worker.ask(study)
    assert not Positions.read(study, 3).is_needed(trial.number)
    study.tell(trial, state=TrialState.FAIL)
    search(storage, 3)
    assert len(study.trials) == 4
    check(search(storage, 6), 6)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_run_trials_from_any_state_fills_each_position_once(data):
    """The states are any mixture of finished, stale and doubly queued trials."""
    storage = InMemoryStorage()
    study = study_of(storage)
    target = data.draw(st.integers(1, 6))
    for _ in range(data.draw(st.integers(0, 8))):
        kind = data.draw(st.sampled_from(["complete", "fail", "stale", "queue", "queue twice"]))
        positions = Positions.read(study, target)
        if kind.startswith("queue"):
            for _ in range(2 if kind == "queue twice" else 1):
                _enqueue_retries(study, positions.failed())
            continue
        with Worker(storage) as worker:
            if not positions.queued() and not positions.has_next():
                continue
            trial = worker.ask(study, queued=bool(positions.queued()))
        if not Positions.read(study, target).is_needed(trial.number):
            study.tell(trial, state=TrialState.FAIL)
        elif kind == "complete":
            propose(trial)
            study.tell(trial, 1.0)
        elif kind == "fail":
            study.tell(trial, state=TrialState.FAIL)
        else:  # The process has ended.
            owner = {**study.trials[trial.number].system_attrs[OWNER], "pid": 2**22 + 1}
            storage.set_trial_system_attr(trial._trial_id, OWNER, owner)
    search(storage, target)
    check(study, target)


def test_run_trials_overlapping_gives_the_sequential_trials():
    runs = []
    for OPTIONS["independent"] in (None, same_generation):
        study = search(InMemoryStorage(), target=30)
        check(study, 30)
        runs.append(complete(study))
    assert runs[0] == runs[1]


def test_run_trials_overlapping_proposes_the_next_trial_of_a_generation():
    counts: list[tuple[int, int]] = []
    proposed: list[int] = []

    def recording(trial):
        evaluate = propose(trial)
        proposed.append(trial.number)

        def score():
            deadline = time.monotonic() + 0.2
            while time.monotonic() < deadline and len(proposed) <= trial.number + 1:
                time.sleep(0.001)
            counts.append((trial.number, len(proposed)))
            return evaluate()

        return score

    OPTIONS["independent"] = same_generation
    search(InMemoryStorage(), target=10, proposal=recording)
    # The first trial of a generation depends on the results of all earlier trials.
    assert counts == [(n, n + 1 if (n + 1) % 4 == 0 or n == 9 else n + 2) for n in range(10)]


@pytest.mark.parametrize("at", [0, 1, 2, 5])
def test_run_trials_overlapping_failed_evaluation_leaves_no_running_trial(at):
    def failing(trial):
        evaluate = propose(trial)

        def score():
            if trial.number == at:
                raise KeyboardInterrupt
            return evaluate()

        return score

    OPTIONS["independent"] = None
    expected = complete(search(InMemoryStorage(), target=12))
    OPTIONS["independent"] = same_generation
    storage = InMemoryStorage()
    with pytest.raises(KeyboardInterrupt):
        search(storage, target=12, proposal=failing)
    left = study_of(storage).get_trials(deepcopy=False)
    assert not [t for t in left if t.state == TrialState.RUNNING]
    study = search(storage, target=12)
    check(study, 12)
    again = {tuple(sorted(p.items())): v for p, v in complete(study)}
    assert again == {tuple(sorted(p.items())): v for p, v in expected}


def test_run_trials_overlapping_asked_to_stop_finishes_its_trials():
    stopping = threading.Event()

    def recording(trial):
        evaluate = propose(trial)
        if trial.number == 2:
            stopping.set()
        return evaluate

    OPTIONS["independent"] = same_generation
    storage = InMemoryStorage()
    with pytest.raises(Stopped):
        search(storage, proposal=recording, stop=stopping.is_set)
    states = [t.state for t in study_of(storage).get_trials(deepcopy=False)]
    assert states == [TrialState.COMPLETE] * 3


def test_run_trials_of_a_trial_that_is_now_of_another_worker_drops_the_result(storage):
    """After an older backup was restored, its id may be that of another trial."""
    stolen = []

    def propose_and_lose(trial):
        evaluate = propose(trial)
        if not stolen:
            stolen.append(trial.number)
            storage.set_trial_system_attr(trial._trial_id, OWNER, {"name": "another"})
        return evaluate

    lines = []
    study = search(storage, 3, propose_and_lose, progress=LineProgress(lines.append))
    assert study.trials[stolen[0]].state == TrialState.FAIL
    check(study, 3)
    assert any("is dropped" in line for line in lines)


def test_run_trials_target_of_another_study_raises_before_a_trial_is_created(storage):
    def gone(trials):
        raise StudyError("The study is another.")

    with pytest.raises(StudyError, match="is another"):
        run_until(storage, gone)
    assert study_of(storage).trials == []
