"""The state of a running search, for its display."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from glora_automl.architecture import TENSORS
from glora_automl.pipeline._context import Context
from glora_automl.progress import ParameterGrid, SearchState
from glora_automl.samplers import is_feasible, sort_trials
from glora_automl.search_space import SearchSpace, group
from glora_automl.study import CONSTRAINT, objective_name

__all__ = ["Monitor", "parameter_grid"]

N_RECENT = 60
"""Latest values that are kept for the display."""

GENERATIONS = ("evolution", "nsga2")
"""Samplers with generations."""


class Monitor:
    """Sums up the trials of a search.

    Args:
        study: The study.
        context: Its recipe on this machine, if it has one.
        record: Called with finished trials.
    """

    def __init__(
        self,
        study: optuna.Study,
        context: Context | None = None,
        record: Callable[[Sequence[FrozenTrial]], object] | None = None,
    ) -> None:
        self._record = record
        self._directions = study.directions[:1]
        self._objective = objective_name(study)
        self._context = context
        self._best: FrozenTrial | None = None
        self._grid: ParameterGrid | None = None
        self._recent: deque[float] = deque(maxlen=N_RECENT)
        self._workers: set[str] = set()
        self._n_done = 0

    def see(self, trials: Sequence[FrozenTrial]) -> None:
        """Take in finished trials."""
        self._n_done += len(trials)
        if self._record is not None:
            self._record(trials)
        self._note_workers(trials)
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        self._recent.extend(t.values[0] for t in complete if is_feasible(t))
        known = [] if self._best is None else [self._best]
        best = next(iter(sort_trials([*known, *complete], self._directions, 1)), None)
        if best is not self._best and best is not None:
            self._best = best
            if self._context is not None:
                self._grid = parameter_grid(self._context.space, best)

    def _note_workers(self, trials: Sequence[FrozenTrial]) -> None:
        self._workers.update(t.user_attrs["worker"] for t in trials if "worker" in t.user_attrs)

    def state(self, *, target: int, running: Sequence[FrozenTrial]) -> SearchState | str:
        """Return the state; empty until a trial is complete.

        Args:
            target: Number of trials to reach.
            running: Trials that are being evaluated.
        """
        self._note_workers(running)
        if self._best is None:
            return ""
        generation = None
        if self._context is not None and self._context.recipe.search.sampler in GENERATIONS:
            population_size = self._context.recipe.search.population_size
            current = min(self._n_done, target - 1) // population_size + 1
            generation = current, math.ceil(target / population_size)
        return SearchState(
            best=self._best.values[0],
            objective=self._objective,
            n_params=self._best.user_attrs.get(CONSTRAINT),
            budget=None if self._context is None else self._context.budget,
            recent=tuple(self._recent),
            generation=generation,
            workers=len(self._workers),
            running=len(running),
            grid=self._grid,
        )


def parameter_grid(space: SearchSpace, trial: FrozenTrial) -> ParameterGrid:
    """Return the parameters of a trial's architecture by support tensor and block."""
    blocks: dict[str, list[int]] = {}
    for layer, choices in space.architecture(trial.params).items():
        counts = blocks.setdefault(group(layer, "block").removesuffix(".*"), [0] * len(TENSORS))
        for row, (tensor, choice) in enumerate(zip(TENSORS, choices, strict=True)):
            counts[row] += choice.count(tensor, space.shapes[layer])
    return ParameterGrid(tuple(TENSORS), tuple(blocks), tuple(zip(*blocks.values(), strict=True)))
