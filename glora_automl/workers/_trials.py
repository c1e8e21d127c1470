"""Trials of a search: several workers share them, without loss and without repetition."""

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
from typing import Any, NamedTuple, Protocol

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from glora_automl.errors import Stopped, StudyError, TrainingError
from glora_automl.progress import Advance, Progress, SearchState
from glora_automl.samplers import DONE
from glora_automl.storages import hold_writes
from glora_automl.workers._positions import Positions
from glora_automl.workers._worker import CLAIM, HEARTBEAT, OWNER, Worker, fail

__all__ = ["Callback", "Evaluation", "Proposal", "run_trials"]

MAX_RETRIES = 10
"""Most retries of a trial: an architecture can end each of its workers, by its memory."""


class Evaluation(NamedTuple):
    """Result of a trial.

    Attributes:
        values: One value per objective.
        attributes: User attributes of the trial.
        pruned: Whether the evaluation was ended early; the trial then has no values.
    """

    values: tuple[float, ...]
    attributes: dict[str, Any]
    pruned: bool = False


Callback = Callable[[optuna.Study, FrozenTrial], object]
"""Called after a trial, as by ``study.optimize``."""

Proposal = Callable[[optuna.Trial], Callable[[], Evaluation]]
"""Proposes the parameters of a trial; returns the function that evaluates them."""


class Monitor(Protocol):
    """Summary of a search for a display."""

    def see(self, trials: Sequence[FrozenTrial], /) -> object:
        """Add finished trials."""

    def state(self, *, target: int, running: Sequence[FrozenTrial]) -> SearchState | str:
        """Return the state to show.

        Args:
            target: Number of trials to reach.
            running: The running trials.
        """


def run_trials(
    study: optuna.Study,
    propose: Proposal,
    *,
    worker: Worker,
    target: Callable[[], int],
    progress: Progress,
    title: str = "Search",
    monitor: Monitor | None = None,
    on_trials: Callable[[int, int], object] | None = None,
    independent: Callable[[int, int], bool] | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Evaluate architectures, with other workers, until ``target`` trials are complete.

    A stale or stopped trial is retried at its position. Of several trials at one position, one is
    evaluated.

    Args:
        study: The study.
        propose: Proposes parameters and returns the function that evaluates them. Other workers
            know the parameters before the evaluation.
        worker: The worker of this process.
        target: Returns the number of complete trials to reach. It is called before each trial, as
            another worker may have changed the number. It may raise if the study is not the one
            that was opened.
        progress: Display of the trials of all workers.
        title: Their title there.
        monitor: Summary of the trials for the display; by default only their number.
        on_trials: Called with the number of done trials, before and now, by the worker of the last
            one.
        independent: Returns whether the proposal at the second position does not depend on the
            result at the first. Such a trial is proposed during the evaluation of the first one,
            which runs in a thread. So the device does not wait for sampler and storage.
        callbacks: Called with the study and the trial after each trial of this worker, as those of
            ``study.optimize``.

    Raises:
        Stopped: If the caller asked to stop. No trial stays running.
        TrainingError: If a value is not finite.
        StudyError: If a trial needs too many retries.
    """
    worker.wait_for_running(study)
    n_trials = target()
    active = _ActiveTrials(study, propose, worker, progress, independent, callbacks)
    with active, progress.stage(title, n_trials, "trials") as advance:
        display = _Display(worker, advance, monitor, on_trials)
        logged = False
        while True:
            if not active:
                worker.check_stop()
            before, n_trials = n_trials, target()
            if n_trials < before:
                progress.log(f"The search ends with {n_trials} of {before} trials.")
            worker.fail_stale(study)
            positions = Positions.read(study, n_trials)
            is_complete = display.update(positions) >= n_trials
            if active:
                if not is_complete:
                    active.start_independent(positions)
                active.finish()
                continue
            if is_complete:
                for trial in positions.queued_retries():
                    fail(worker.storage, trial._trial_id)
                return
            queued = bool(positions.queued()) or _enqueue_retry(study, positions)
            if queued or positions.has_next():
                active.start(n_trials, queued=queued)
                if independent is None and active:
                    active.finish()
            else:
                if not logged:
                    logged = True
                    names = ", ".join(str(t.number) for t in positions.running()[:5])
                    progress.log(f"Waiting for the last trials of other workers ({names}).")
                worker.wait()


class _Display:
    """Display of the done trials of all workers.

    Args:
        worker: The worker of this process.
        advance: See :meth:`Progress.stage`.
        monitor: See :func:`run_trials`.
        on_trials: See :func:`run_trials`.
    """

    def __init__(
        self,
        worker: Worker,
        advance: Advance,
        monitor: Monitor | None,
        on_trials: Callable[[int, int], object] | None,
    ) -> None:
        self._worker = worker
        self._advance = advance
        self._monitor = monitor
        self._on_trials = on_trials
        self._shown: set[int] = set()
        self._earlier = True

    def update(self, positions: Positions) -> int:
        """Show the newly done trials, and return the number of all."""
        done = positions.done()
        new = [t for t in done if t.number not in self._shown]
        if new:
            self._shown.update(t.number for t in new)
            state: SearchState | str = ""
            if self._monitor is not None:
                self._monitor.see(new)
                state = self._monitor.state(target=positions.target, running=positions.running())
            self._advance(len(new), state, earlier=self._earlier)
            last = max(new, key=lambda t: (t.datetime_complete, t.number))
            if self._on_trials is not None and last.user_attrs.get("worker") == self._worker.name:
                self._on_trials(len(self._shown) - len(new), len(self._shown))
        self._earlier = False
        return len(done)  # less than were shown, if an older backup was restored


class _ActiveTrial(NamedTuple):
    """A trial in evaluation."""

    trial: optuna.Trial
    heartbeats: contextlib.ExitStack
    result: Callable[[], Evaluation]


class _ActiveTrials:
    """Trials that this worker evaluates; none of them runs after the block.

    Args:
        study: The study.
        propose: See :func:`run_trials`.
        worker: The worker of this process.
        progress: Display.
        independent: See :func:`run_trials`. If given, a thread evaluates the trials in turn.
        callbacks: See :func:`run_trials`.
    """

    def __init__(
        self,
        study: optuna.Study,
        propose: Proposal,
        worker: Worker,
        progress: Progress,
        independent: Callable[[int, int], bool] | None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self._callbacks = callbacks
        self._study = study
        self._propose = propose
        self._worker = worker
        self._progress = progress
        self._active: deque[_ActiveTrial] = deque()
        self._independent = independent
        self._executor = None if independent is None else ThreadPoolExecutor(1, "glora evaluation")

    def __enter__(self) -> _ActiveTrials:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        while self._active:
            trial, heartbeats, _result = self._active.popleft()
            self._requeue(trial, heartbeats)

    def __bool__(self) -> bool:
        return bool(self._active)

    def start(self, target: int, *, queued: bool) -> None:
        """Ask for a trial, and start its evaluation if it is needed."""
        study, worker = self._study, self._worker
        try:
            trial = worker.ask(study, queued=queued)
        except UpdateFinishedTrialError:
            return  # Another worker failed the queued trial before it had an owner.
        # Only a retry and a trial beyond the target can collide with those of other workers.
        may_collide = queued or trial.number >= target
        if may_collide and not Positions.read(study, target).is_needed(trial.number):
            fail(worker.storage, trial._trial_id)
            return
        heartbeats = contextlib.ExitStack()
        heartbeats.enter_context(worker.heartbeats(trial._trial_id))
        with self._requeued_on_error(trial, heartbeats):
            with hold_writes(worker.storage):
                evaluate = self._propose(trial)
            if self._executor is not None:
                evaluate = self._executor.submit(evaluate).result
            self._active.append(_ActiveTrial(trial, heartbeats, evaluate))

    def start_independent(self, positions: Positions) -> None:
        """Start the next trial before the first one ends, if it is independent of that one."""
        first, following = self._active[0].trial.number, positions.next_position()
        if (
            self._independent is not None
            and not self._worker.wants_stop()
            and positions.only_new()
            and self._independent(positions.positions[first], following)
        ):
            self.start(positions.target, queued=False)

    def finish(self) -> None:
        """Wait for the first evaluation, and write its result."""
        trial, heartbeats, result = self._active.popleft()
        with self._requeued_on_error(trial, heartbeats):
            values, attributes, pruned = result()
            for value in values:
                if not math.isfinite(value):
                    raise TrainingError(
                        f"The values of a trial must be finite, got {value} in trial "
                        f"{trial.number}. Lower `training.lr`, as the supernet's training has "
                        "diverged, and choose another `name`."
                    )
            if not self._worker.owns(trial._trial_id):
                raise UpdateFinishedTrialError
            with hold_writes(self._worker.storage):
                for key, attribute in attributes.items():
                    trial.set_user_attr(key, attribute)
                _tell(self._study, trial, values, pruned=pruned)
            heartbeats.close()
        if self._callbacks and (found := self._finished(trial)) is not None:
            for callback in self._callbacks:
                callback(self._study, found)

    def _finished(self, trial: optuna.Trial) -> FrozenTrial | None:
        """Return a trial as the storage has it; None if its result was dropped."""
        found = self._study._storage.get_trial(trial._trial_id)
        return found if found.state in DONE else None

    @contextmanager
    def _requeued_on_error(
        self, trial: optuna.Trial, heartbeats: contextlib.ExitStack
    ) -> Iterator[None]:
        """Queue a trial again if the block raises; drop its result if it was failed as stale."""
        try:
            try:
                yield
            except Stopped:  # the evaluation asks the worker, not the caller
                if self._worker.was_failed(trial._trial_id):
                    raise UpdateFinishedTrialError from None
                raise
        except UpdateFinishedTrialError:
            heartbeats.close()
            self._progress.log(
                f"Another worker failed trial {trial.number} as stale; the result of this worker "
                "is dropped and the trial is evaluated again."
            )
        except BaseException:
            self._requeue(trial, heartbeats)
            raise

    def _requeue(self, trial: optuna.Trial, heartbeats: contextlib.ExitStack) -> None:
        """Queue a trial again, so that the next worker need not wait until it is stale."""
        heartbeats.close()
        with contextlib.suppress(Exception):
            fail(self._worker.storage, trial._trial_id)
            all_positions = Positions.read(self._study, sys.maxsize)
            position = all_positions.positions[trial.number]
            failed = all_positions.failed()
            _enqueue_retries(
                self._study, [t for t in failed if all_positions.positions[t.number] == position]
            )


def _tell(
    study: optuna.Study, trial: optuna.Trial, values: Sequence[float], *, pruned: bool
) -> None:
    """Call :meth:`optuna.Study.tell`, with one exception type for a trial that was failed."""
    try:
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, values)
    except ValueError:
        if study._storage.get_trial(trial._trial_id).state.is_finished():
            raise UpdateFinishedTrialError from None
        raise


def _enqueue_retry(study: optuna.Study, positions: Positions) -> bool:
    """Queue one of the failed trials, and return whether there was one.

    A single worker takes the first one, so it follows the order of positions. One of several
    workers takes a random one: they have the same list, and two retries of one trial waste one.
    """
    failed = positions.failed()
    if failed:
        _enqueue_retries(study, [random.choice(failed) if positions.running() else failed[0]])
    return bool(failed)


def _enqueue_retries(study: optuna.Study, failed: Sequence[FrozenTrial]) -> None:
    """Queue failed trials. Of the retries that several workers queue, one is evaluated.

    Raises:
        StudyError: If a trial needs too many retries.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # A resumed training is past the step at which it has reported.
        retry = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
    for trial in failed:
        # The callback extends the trial's own list, which may be in a cache of the storage.
        again = copy.copy(trial)
        again.system_attrs = copy.deepcopy(
            {k: v for k, v in trial.system_attrs.items() if k not in (OWNER, CLAIM, HEARTBEAT)}
        )
        tries = len(again.system_attrs.get("retry_history", ())) + 1
        if tries > MAX_RETRIES:
            raise StudyError(
                f"A trial must be complete within {MAX_RETRIES} retries, got {tries} failures of "
                f"trial {trial.number}. Read the logs of its workers, check their memory and "
                "choose another `name`."
            )
        retry(study, again)
