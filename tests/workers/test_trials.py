"""Trials shared out among workers: none lost, none twice."""

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
from glora_automl.workers._trials import MAX_RETRIES, Evaluation, _Places, _queue_again, run_trials
from glora_automl.workers._worker import OWNER, Worker


def same_generation(first, second):
    return first // 4 == second // 4


HOW = {"independent": None}
"""How the trials of this module are run: what :func:`run_trials` is given."""


@pytest.fixture(scope="module", autouse=True, params=[None, same_generation])
def _in_turn_and_overlapping(request):
    HOW["independent"] = request.param
    yield
    HOW["independent"] = None


SPACE = {f"x{i}": CategoricalDistribution(("a", "b", "c")) for i in range(6)}


def study_of(storage):
    return optuna.create_study(
        study_name="s",
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        # Known from the start: it does not depend on which trials are complete.
        sampler=EvolutionSampler(population_size=4, top=2, seed=0, search_space=SPACE),
    )


def propose(trial):
    xs = [trial.suggest_categorical(f"x{i}", ["a", "b", "c"]) for i in range(6)]
    if not trial.constraints:
        trial.set_constraint("trainable_params", xs.count("c") - 4)
    return lambda: Evaluation((xs.count("a") / 6,), {"length": len(xs)})


def work(storage, target=20, proposal=propose, **options):
    progress = options.pop("progress", Progress())
    with Worker(storage, heartbeat=1.0, **options) as worker:
        study = study_of(storage)
        run_trials(study, proposal, worker=worker, target=lambda: target, progress=progress, **HOW)
    return study


def complete(study):
    """Parameters and values of the complete trials, in the order of their places."""
    trials = study.get_trials(deepcopy=False)
    positions = trial_positions(trials)
    done = [t for t in trials if t.state == TrialState.COMPLETE]
    return [(t.params, t.value) for t in sorted(done, key=lambda t: positions[t.number])]


def check(study, target):
    """Every place once, nothing left over."""
    trials = study.get_trials(deepcopy=False)
    assert all(t.state.is_finished() for t in trials)
    positions = trial_positions(trials)
    places = [positions[t.number] for t in trials if t.state == TrialState.COMPLETE]
    assert sorted(places) == list(range(target))


def test_one_worker_reaches_the_target_without_spare_trials(storage):
    study = work(storage)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 20
    assert all(t.user_attrs["length"] == 6 for t in study.trials)
    work(storage)
    assert len(study.trials) == 20


def test_workers_together_reach_the_target_exactly(storage):
    def slowly(trial):
        evaluate = propose(trial)

        def score():
            time.sleep(0.01)
            return evaluate()

        return score

    failures = []

    def take_part():
        try:
            work(storage, 30, slowly)
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
    assert len({t.user_attrs["worker"] for t in study.trials}) >= 2  # the journal's lock is unfair


class Interrupt(BaseException):
    pass


def interrupted(after, where):
    """A proposal that ends its worker in the n-th trial, before or in its evaluation."""
    count = 0

    def proposal(trial):
        nonlocal count
        count += 1
        mine = count
        evaluate = propose(trial)
        if mine == after and where == "proposal":
            raise Interrupt

        def score():
            if mine == after:
                raise Interrupt
            return evaluate()

        return score

    return proposal


@pytest.mark.parametrize("where", ["proposal", "evaluation"])
@pytest.mark.parametrize("after", [1, 7])
def test_an_interrupted_trial_is_evaluated_again_in_its_place(storage, after, where):
    with pytest.raises(Interrupt):
        work(storage, proposal=interrupted(after, where))
    queued = study_of(storage).trials[-1]
    assert queued.state == TrialState.WAITING, "the next worker need not wait"
    study = work(storage)
    check(study, 20)
    assert complete(study) == complete(work(InMemoryStorage()))
    failed = [t for t in study.trials if t.state == TrialState.FAIL]
    retries = [t for t in study.trials if "retry_history" in t.system_attrs]
    assert 1 <= len(retries) <= (1 if HOW["independent"] is None else 2)
    tried = [n for t in retries for n in t.system_attrs["retry_history"]]
    assert [t.number for t in failed] == sorted(tried)
    if where == "evaluation":
        assert sorted(map(str, (t.params for t in failed))) == sorted(
            map(str, (t.params for t in retries))
        )


def test_parameters_are_known_to_others_during_the_evaluation(storage):
    seen = []

    def proposal(trial):
        evaluate = propose(trial)

        def score():
            # In a thread of its own: what this one holds back, that one cannot see.
            def look():
                found = study_of(storage).get_trials(deepcopy=False)[trial.number]
                seen.append((found.state, len(found.params), dict(found.constraints)))

            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
            return evaluate()

        return score

    work(storage, 2, proposal)
    assert [s[:2] for s in seen] == [(TrialState.RUNNING, 6)] * 2
    assert all("trainable_params" in s[2] for s in seen)


def test_a_result_of_a_trial_that_was_taken_over_is_dropped(storage):
    lines, taken = [], []

    def proposal(trial):
        evaluate = propose(trial)

        def score():
            if not taken:
                taken.append(trial.number)
                storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            return evaluate()

        return score

    study = work(storage, 5, proposal, progress=LineProgress(lines.append))
    check(study, 5)
    assert study.trials[0].state == TrialState.FAIL
    assert any("taken for dead at trial 0" in line for line in lines)


def test_a_score_that_is_no_number_is_told(storage):
    with pytest.raises(TrainingError, match=r"trial 0 has nan.*lower training\.lr"):
        work(
            storage,
            proposal=lambda trial: propose(trial) and (lambda: Evaluation((float("nan"),), {})),
        )
    assert not complete(study_of(storage))


def test_a_trial_that_always_dies_is_not_tried_for_ever(storage):
    died = 0
    with pytest.raises(StudyError, match=f"within {MAX_RETRIES} retries.*memory"):
        while died <= 3 * MAX_RETRIES:
            try:
                work(storage, proposal=interrupted(1, "evaluation"))
            except Interrupt:
                died += 1
    # Where two are begun at a time, either is the one that dies first.
    assert died == MAX_RETRIES + 1 if HOW["independent"] is None else died > MAX_RETRIES


def test_it_stops_between_trials(storage):
    asked = iter([False] * 30 + [True] * 100)
    with pytest.raises(Stopped):
        work(storage, 1000, stop=lambda: next(asked))
    trials = study_of(storage).trials
    assert 0 < len(trials) < 100
    assert all(t.state == TrialState.COMPLETE for t in trials)


def test_the_target_can_be_raised_while_workers_are_at_it(storage):
    targets = iter([5, 9, 9])
    with Worker(storage, heartbeat=1.0) as worker:
        study = study_of(storage)
        run_trials(
            study, propose, worker=worker, target=lambda: next(targets), progress=Progress(), **HOW
        )
    check(study, 9)


def test_an_enqueued_architecture_is_evaluated(storage):
    wanted = {f"x{i}": "a" for i in range(6)}
    study_of(storage).enqueue_trial(wanted)
    study = work(storage, 5)
    assert study.trials[0].params == wanted
    check(study, 5)


def test_spare_trials_are_evaluated_when_the_target_is_raised(storage):
    """A worker that came too late for the last place has left a failed trial."""
    study = work(storage, 3)
    with Worker(storage) as worker:
        trial = worker.ask(study)
    assert not _Places.of(study, 3).may_run(trial.number)
    study.tell(trial, state=TrialState.FAIL)
    work(storage, 3)
    assert len(study.trials) == 4
    check(work(storage, 6), 6)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_happens_each_place_is_filled_once(data):
    """Any mixture of finished, dead and doubly queued trials comes to its end."""
    storage = InMemoryStorage()
    study = study_of(storage)
    target = data.draw(st.integers(1, 6))
    for _ in range(data.draw(st.integers(0, 8))):
        kind = data.draw(st.sampled_from(["complete", "fail", "die", "queue", "queue twice"]))
        places = _Places.of(study, target)
        if kind.startswith("queue"):
            for _ in range(2 if kind == "queue twice" else 1):
                _queue_again(study, places.failed())
            continue
        with Worker(storage) as worker:
            if not places.any_waits() and not places.next_is_free():
                continue
            trial = worker.ask(study, queued=places.any_waits())
        if not _Places.of(study, target).may_run(trial.number):
            study.tell(trial, state=TrialState.FAIL)
        elif kind == "complete":
            propose(trial)
            study.tell(trial, 1.0)
        elif kind == "fail":
            study.tell(trial, state=TrialState.FAIL)
        else:  # its process is gone
            owner = {**study.trials[trial.number].system_attrs[OWNER], "pid": 2**22 + 1}
            storage.set_trial_system_attr(trial._trial_id, OWNER, owner)
    work(storage, target)
    check(study, target)


def test_overlapping_trials_are_those_of_one_after_the_other():
    runs = []
    for HOW["independent"] in (None, same_generation):
        study = work(InMemoryStorage(), target=30)
        check(study, 30)
        runs.append(complete(study))
    assert runs[0] == runs[1]


def test_the_next_of_a_generation_is_asked_for_during_an_evaluation():
    running: list[tuple[int, int]] = []
    asked: list[int] = []

    def noting(trial):
        evaluate = propose(trial)
        asked.append(trial.number)

        def score():
            deadline = time.monotonic() + 0.2
            while time.monotonic() < deadline and len(asked) <= trial.number + 1:
                time.sleep(0.001)
            running.append((trial.number, len(asked)))
            return evaluate()

        return score

    HOW["independent"] = same_generation
    work(InMemoryStorage(), target=10, proposal=noting)
    # The first of a generation needs the results of all before it.
    assert running == [(n, n + 1 if (n + 1) % 4 == 0 or n == 9 else n + 2) for n in range(10)]


@pytest.mark.parametrize("at", [0, 1, 2, 5])
def test_an_evaluation_that_fails_leaves_no_other_running(at):
    def failing(trial):
        evaluate = propose(trial)

        def score():
            if trial.number == at:
                raise KeyboardInterrupt
            return evaluate()

        return score

    HOW["independent"] = None
    expected = complete(work(InMemoryStorage(), target=12))
    HOW["independent"] = same_generation
    storage = InMemoryStorage()
    with pytest.raises(KeyboardInterrupt):
        work(storage, target=12, proposal=failing)
    left = study_of(storage).get_trials(deepcopy=False)
    assert not [t for t in left if t.state == TrialState.RUNNING]
    study = work(storage, target=12)
    check(study, 12)
    again = {tuple(sorted(p.items())): v for p, v in complete(study)}
    assert again == {tuple(sorted(p.items())): v for p, v in expected}


def test_asked_to_stop_it_ends_what_it_has_begun():
    stopping = threading.Event()

    def noting(trial):
        evaluate = propose(trial)
        if trial.number == 2:
            stopping.set()
        return evaluate

    HOW["independent"] = same_generation
    storage = InMemoryStorage()
    with pytest.raises(Stopped):
        work(storage, proposal=noting, stop=stopping.is_set)
    states = [t.state for t in study_of(storage).get_trials(deepcopy=False)]
    assert states == [TrialState.COMPLETE] * 3
