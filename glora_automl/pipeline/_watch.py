"""How a search stands, for whoever watches it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from glora_automl.architecture import TENSORS
from glora_automl.pipeline._context import Setup
from glora_automl.progress import ParameterGrid, SearchState
from glora_automl.search_space import SearchSpace, group
from glora_automl.study import CONSTRAINT, objective_name, rank

__all__ = ["Watch", "parameter_grid"]

RECENT = 60
"""Values that are kept to be shown."""

GENERATIONS = ("evolution", "nsga2")
"""Samplers that know generations."""


class Watch:
    """Keeps how a search stands, from trials that its worker has at hand anyway.

    Args:
        study: The study.
        setup: Its recipe on this machine, if it is that of a recipe.
    """

    def __init__(self, study: optuna.Study, setup: Setup | None = None) -> None:
        self._direction = study.directions[0]
        self._objective = objective_name(study)
        self._setup = setup
        self._best: FrozenTrial | None = None
        self._grid: ParameterGrid | None = None
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._workers: set[str] = set()
        self._done = 0

    def see(self, trials: Sequence[FrozenTrial]) -> None:
        """Take in trials that have come to their end."""
        self._done += len(trials)
        self._meet(trials)
        whole = [t for t in trials if t.state == TrialState.COMPLETE]
        self._recent.extend(t.values[0] for t in whole if rank(t, self._direction)[0] == 0)
        known = [] if self._best is None else [self._best]
        best = min([*known, *whole], key=lambda t: rank(t, self._direction), default=None)
        if best is not self._best and best is not None:
            self._best = best
            if self._setup is not None:
                self._grid = parameter_grid(self._setup.space, best)

    def _meet(self, trials: Sequence[FrozenTrial]) -> None:
        self._workers.update(t.user_attrs["worker"] for t in trials if "worker" in t.user_attrs)

    def state(self, *, target: int, running: Sequence[FrozenTrial]) -> SearchState | str:
        """How the search stands; nothing to tell as long as no trial is complete.

        Args:
            target: Trials that are wanted.
            running: Those that are being evaluated.
        """
        self._meet(running)
        if self._best is None:
            return ""
        generation = None
        if self._setup is not None and self._setup.recipe.search.sampler in GENERATIONS:
            population_size = self._setup.recipe.search.population_size
            under_way = min(self._done, target - 1) // population_size + 1
            generation = under_way, math.ceil(target / population_size)
        return SearchState(
            best=self._best.values[0],
            objective=self._objective,
            n_params=self._best.user_attrs.get(CONSTRAINT),
            budget=None if self._setup is None else self._setup.budget,
            recent=tuple(self._recent),
            generation=generation,
            workers=len(self._workers),
            running=len(running),
            grid=self._grid,
        )


def parameter_grid(space: SearchSpace, trial: FrozenTrial) -> ParameterGrid:
    """Where the parameters of a trial's architecture are, by support tensor and block."""
    blocks: dict[str, list[int]] = {}
    for layer, choices in space.architecture(trial.params).items():
        counts = blocks.setdefault(group(layer, "block").removesuffix(".*"), [0] * len(TENSORS))
        for row, (tensor, choice) in enumerate(zip(TENSORS, choices, strict=True)):
            counts[row] += choice.count(tensor, space.shapes[layer])
    return ParameterGrid(tuple(TENSORS), tuple(blocks), tuple(zip(*blocks.values(), strict=True)))
