"""The search itself: trials shared out among workers, none of them lost and none done twice."""

from __future__ import annotations

import contextlib
import copy
import math
import random
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from glora_automl.errors import StudyError, TrainingError
from glora_automl.progress import Progress, SearchState
from glora_automl.samplers import DONE, trial_positions
from glora_automl.storages import hold_writes
from glora_automl.workers._worker import BEAT, OWNER, Worker, fail

__all__ = ["Evaluation", "Proposal", "run_trials"]

MAX_RETRIES = 10
"""How often a trial is evaluated again whose worker died; an architecture may be what kills it."""


class Evaluation(NamedTuple):
    """What came out of a trial.

    Attributes:
        values: Its values, one for each objective.
        attributes: What else is written with it.
    """

    values: tuple[float, ...]
    attributes: dict[str, Any]


Proposal = Callable[[optuna.Trial], Callable[[], Evaluation]]
"""Suggests a trial's parameters; what it returns evaluates them."""


class Watch(Protocol):
    """Sums up the trials of a search for a display."""

    def see(self, trials: Sequence[FrozenTrial], /) -> object:
        """Take in trials that are finished."""

    def state(self, *, target: int, running: Sequence[FrozenTrial]) -> SearchState | str:
        """Return the state to show.

        Args:
            target: Number of trials to reach.
            running: Trials that are being evaluated.
        """


@dataclass(frozen=True)
class _Places:
    """Which trial stands where.

    A trial's position is its number in a study without retries, so of all trials with positions
    below the target, exactly one in each place has to be completed, whoever starts, dies, and
    tries again at the same time.
    """

    trials: Sequence[FrozenTrial]
    positions: Sequence[int]
    target: int

    @classmethod
    def of(cls, study: optuna.Study, target: int) -> _Places:
        trials = study.get_trials(deepcopy=False)
        return cls(trials, trial_positions(trials), target)

    def filled(self) -> list[FrozenTrial]:
        """The trials that have come to their end."""
        return [t for t in self.trials if t.state in DONE]

    def running(self) -> list[FrozenTrial]:
        """The running trials."""
        return [t for t in self.trials if t.state == TrialState.RUNNING]

    def next(self) -> int:
        """The position of a new trial."""
        return max(self.positions, default=-1) + 1

    def next_is_free(self) -> bool:
        """Whether a new trial would have a place."""
        return self.next() < self.target

    def only_new_ones_are_left(self) -> bool:
        """Whether a new trial is what comes next: none is to be tried again."""
        return self.next_is_free() and not self.any_waits() and not self.failed()

    def any_waits(self) -> bool:
        """Whether a trial is in the queue."""
        return any(t.state == TrialState.WAITING for t in self.trials)

    def failed(self) -> list[FrozenTrial]:
        """The last trial of each place whose trials have all failed."""
        places: dict[int, FrozenTrial | None] = {}
        for trial, position in zip(self.trials, self.positions, strict=True):
            if position >= self.target or trial.state != TrialState.FAIL:
                places[position] = None
            elif places.get(position, trial) is not None:
                places[position] = trial
        return [trial for trial in places.values() if trial is not None]

    def spare(self) -> list[FrozenTrial]:
        """Retries in the queue whose place was filled by another retry."""
        done = {self.positions[t.number] for t in self.filled()}
        return [
            t
            for t, position in zip(self.trials, self.positions, strict=True)
            if t.state == TrialState.WAITING and position in done
        ]

    def may_run(self, number: int) -> bool:
        """Whether a trial that was created is wanted, seen what others created meanwhile."""
        position = self.positions[number]
        return position < self.target and not any(
            t.state in DONE or (not t.state.is_finished() and t.number < number)
            for t, p in zip(self.trials, self.positions, strict=True)
            if p == position and t.number != number
        )


def run_trials(
    study: optuna.Study,
    propose: Proposal,
    *,
    worker: Worker,
    target: Callable[[], int],
    progress: Progress,
    title: str = "Search",
    watch: Watch | None = None,
    on_trials: Callable[[int, int], object] | None = None,
    independent: Callable[[int, int], bool] | None = None,
) -> None:
    """Evaluate architectures, together with other workers, until ``target`` trials are complete.

    A trial whose worker died, or was stopped, is evaluated again in its place; of trials that
    were created for one place by several workers, one is evaluated.

    Args:
        study: The study.
        propose: Suggests parameters and gives the function that evaluates them. Between the two
            the parameters are written, so that other workers know them.
        worker: Who works here.
        target: Complete trials to reach; asked again in the end, as somebody may have raised it.
        progress: Shows the trials of all workers.
        title: What they are called there.
        watch: Sums up the trials for the display; by default nothing but their number is shown.
        on_trials: Called with the number of trials that were done before and are now, by the worker
            whose trial was the last of them.
        independent: Whether what is proposed at the second position does not depend on the result
            of the first. Then it is asked for while that one is evaluated, in a thread, so that a
            device need not wait for sampler and storage.

    Raises:
        Stopped: If that was asked for; no trial is left running.
        TrainingError: If a score is no number.
        StudyError: If a trial was tried again too often.
    """
    worker.settle(study)
    wanted = target()
    flights = _Flights(study, propose, worker, progress, in_thread=independent is not None)
    with flights, progress.stage(title, wanted, "trials") as advance:
        shown: set[int] = set()
        earlier, told = True, False
        while True:
            if flights.first() is None:
                worker.check_stop()
            worker.fail_dead(study)
            places = _Places.of(study, wanted)
            new = [t for t in places.filled() if t.number not in shown]
            if new:
                shown.update(t.number for t in new)
                state: SearchState | str = ""
                if watch is not None:
                    watch.see(new)
                    state = watch.state(target=wanted, running=places.running())
                advance(len(new), state, earlier=earlier)
                last = max(new, key=lambda t: (t.datetime_complete, t.number))
                if on_trials is not None and last.user_attrs.get("worker") == worker.name:
                    on_trials(len(shown) - len(new), len(shown))
            earlier = False
            if len(shown) >= wanted:
                if (raised := target()) > wanted:
                    wanted = raised
                    continue
                for trial in places.spare():
                    fail(worker.storage, trial._trial_id)
                return
            if (number := flights.first()) is not None:
                assert independent is not None
                if (
                    not worker.wants_stop()
                    and places.only_new_ones_are_left()
                    and independent(places.positions[number], places.next())
                ):
                    flights.begin(wanted, queued=False)
                flights.end()
                continue
            queued = places.any_waits() or _queue_one(study, places)
            if queued or places.next_is_free():
                flights.begin(wanted, queued=queued)
                if independent is None and flights.first() is not None:
                    flights.end()
            else:
                if not told:
                    told = True
                    names = ", ".join(str(t.number) for t in places.running()[:5])
                    progress.log(f"Waiting for the last trials of other workers ({names}).")
                worker.wait()


class _Flight(NamedTuple):
    """A trial that is being evaluated."""

    trial: optuna.Trial
    beating: contextlib.ExitStack
    result: Callable[[], Evaluation]


class _Flights:
    """The trials that a worker has begun; inside its block, at whose end none is left running.

    Args:
        study: The study.
        propose: See :func:`run_trials`.
        worker: Who works here.
        progress: Where it is told if a trial was taken away.
        in_thread: Whether they are evaluated in a thread of its own, one after the other.
    """

    def __init__(
        self,
        study: optuna.Study,
        propose: Proposal,
        worker: Worker,
        progress: Progress,
        *,
        in_thread: bool,
    ) -> None:
        self._study = study
        self._propose = propose
        self._worker = worker
        self._progress = progress
        self._flights: deque[_Flight] = deque()
        self._executor = ThreadPoolExecutor(1, "glora evaluation") if in_thread else None

    def __enter__(self) -> _Flights:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        while self._flights:
            flight = self._flights.popleft()
            self._abandon(flight.trial, flight.beating)

    def first(self) -> int | None:
        """The number of the first trial that is being evaluated."""
        return self._flights[0].trial.number if self._flights else None

    def begin(self, target: int, *, queued: bool) -> None:
        """Ask for a trial, and begin to evaluate it if it is wanted."""
        study, worker = self._study, self._worker
        try:
            trial = worker.ask(study, queued=queued)
        except UpdateFinishedTrialError:
            return  # taken from the queue, and failed by somebody before it had a name
        # Only these can be in somebody's way: a retry, and one at the end.
        with_halving = queued or trial.number >= target
        if with_halving and not _Places.of(study, target).may_run(trial.number):
            fail(worker.storage, trial._trial_id)
            return
        beating = contextlib.ExitStack()
        beating.enter_context(worker.beating(trial._trial_id))
        with self._landing(trial, beating):
            with hold_writes(worker.storage):
                evaluate = self._propose(trial)
            if self._executor is not None:
                evaluate = self._executor.submit(evaluate).result
            self._flights.append(_Flight(trial, beating, evaluate))

    def end(self) -> None:
        """Wait for the first trial's evaluation, and write what came out."""
        trial, beating, result = self._flights.popleft()
        with self._landing(trial, beating):
            values, attributes = result()
            if not all(map(math.isfinite, values)):
                raise TrainingError(
                    f"Each trial must have a finite score, trial {trial.number} has {values[0]}; "
                    "the supernet's training went wrong, lower training.lr and start with another "
                    "--name."
                )
            with hold_writes(self._worker.storage):
                for key, attribute in attributes.items():
                    trial.set_user_attr(key, attribute)
                _tell(self._study, trial, values)
            beating.close()

    @contextmanager
    def _landing(self, trial: optuna.Trial, beating: contextlib.ExitStack) -> Iterator[None]:
        """See to it that a trial does not stay behind as a running one."""
        try:
            yield
        except UpdateFinishedTrialError:
            beating.close()
            self._progress.log(
                f"This worker was taken for dead at trial {trial.number}; its result is dropped "
                "and the trial evaluated again."
            )
        except BaseException:
            self._abandon(trial, beating)
            raise

    def _abandon(self, trial: optuna.Trial, beating: contextlib.ExitStack) -> None:
        """Queue a trial again, so that the next worker need not wait until this one seems dead."""
        beating.close()
        with contextlib.suppress(Exception):
            fail(self._worker.storage, trial._trial_id)
            places = _Places.of(self._study, sys.maxsize)
            mine = places.positions[trial.number]
            _queue_again(
                self._study, [t for t in places.failed() if places.positions[t.number] == mine]
            )


def _tell(study: optuna.Study, trial: optuna.Trial, values: Sequence[float]) -> None:
    """:meth:`optuna.Study.tell`, with one exception for a trial that somebody else has failed."""
    try:
        study.tell(trial, values)
    except ValueError:
        if study._storage.get_trial(trial._trial_id).state.is_finished():
            raise UpdateFinishedTrialError from None
        raise


def _queue_one(study: optuna.Study, places: _Places) -> bool:
    """Queue one of the failed trials, if there are any.

    The first one: so a worker alone goes on in the order of the places. Among several, any: they
    have the same list before them, and each retry of the same trial but one is in vain.
    """
    failed = places.failed()
    if failed:
        _queue_again(study, [random.choice(failed) if places.running() else failed[0]])
    return bool(failed)


def _queue_again(study: optuna.Study, failed: Sequence[FrozenTrial]) -> None:
    """Queue failed trials; several workers may do it, one of the retries is then evaluated.

    Raises:
        StudyError: If one of them was tried again too often.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        retry = RetryHeartbeatStaleTrialCallback()
    for trial in failed:
        # The callback extends the trial's own list, and that one may be cached.
        again = copy.copy(trial)
        again.system_attrs = copy.deepcopy(
            {k: v for k, v in trial.system_attrs.items() if k not in (OWNER, BEAT)}
        )
        tries = len(again.system_attrs.get("retry_history", ())) + 1
        if tries > MAX_RETRIES:
            raise StudyError(
                f"Each trial must end within {MAX_RETRIES} retries, trial {trial.number} has "
                f"failed {tries} times: its workers die or are stopped, perhaps by its "
                "architecture; look at their logs and memory, then start with another --name."
            )
        retry(study, again)
