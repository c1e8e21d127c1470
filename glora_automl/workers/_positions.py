"""Positions of trials in the study without retries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from glora_automl.samplers import DONE, trial_positions

__all__ = ["Positions"]


@dataclass(frozen=True)
class Positions:
    """Trials of a study by position, which is their number in the study without retries.

    A search is complete when each position below the target has exactly one complete trial. So it
    does not matter how many workers start, end and retry at the same time.

    Attributes:
        trials: All trials, by number.
        positions: The position of each trial.
        target: Number of positions to fill.
    """

    trials: Sequence[FrozenTrial]
    positions: Sequence[int]
    target: int

    @classmethod
    def read(cls, study: optuna.Study, target: int) -> Positions:
        """Read the trials of a study."""
        trials = study.get_trials(deepcopy=False)
        return cls(trials, trial_positions(trials), target)

    def done(self) -> list[FrozenTrial]:
        """Return the complete and pruned trials."""
        return [t for t in self.trials if t.state in DONE]

    def running(self) -> list[FrozenTrial]:
        """Return the running trials."""
        return [t for t in self.trials if t.state == TrialState.RUNNING]

    def failed(self) -> list[FrozenTrial]:
        """Return the last trial of each position whose trials have all failed."""
        last: dict[int, FrozenTrial | None] = {}
        for trial, position in zip(self.trials, self.positions, strict=True):
            if position >= self.target or trial.state != TrialState.FAIL:
                last[position] = None
            elif last.get(position, trial) is not None:
                last[position] = trial
        return [trial for trial in last.values() if trial is not None]

    def queued(self) -> list[FrozenTrial]:
        """Return the trials in the queue."""
        return [t for t in self.trials if t.state == TrialState.WAITING]

    def queued_retries(self) -> list[FrozenTrial]:
        """Return the retries in the queue, without the trials that a user has enqueued."""
        return [t for t in self.queued() if "failed_trial" in t.system_attrs]

    def next_position(self) -> int:
        """Return the position of a new trial."""
        return max(self.positions, default=-1) + 1

    def has_next(self) -> bool:
        """Return whether a new trial would be below the target."""
        return self.next_position() < self.target

    def only_new(self) -> bool:
        """Return whether the next trial is a new one, with no retry before it."""
        return self.has_next() and not self.queued() and not self.failed()

    def is_needed(self, number: int) -> bool:
        """Return whether a created trial has to run, given the trials of other workers."""
        position = self.positions[number]
        return position < self.target and not any(
            t.state in DONE or (not t.state.is_finished() and t.number < number)
            for t, p in zip(self.trials, self.positions, strict=True)
            if p == position and t.number != number
        )
