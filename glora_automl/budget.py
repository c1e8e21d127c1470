"""The budget: reading it, drawing architectures under it, repairing those above it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from glora_automl.errors import BudgetError
from glora_automl.search_space import SearchSpace

__all__ = ["FeasibleRegion", "parse_budget"]

_UNITS = {"k": 1_000, "m": 1_000_000}


def parse_budget(text: str | int, backbone_parameters: int) -> int:
    """Read a budget: the most trainable adapter parameters.

    Args:
        text: A count (``12000``), a count with unit (``"12k"``, ``"0.3M"``) or a share of the
            backbone's parameters (``"1%"``). 0 is allowed: only the head is trained.
        backbone_parameters: The count that a percentage refers to.

    Returns:
        A plain count, rounded down.

    Raises:
        BudgetError: If it is misspelt or negative.

    Example:
        >>> [parse_budget(t, 200_000) for t in (12000, "12k", "0.3M", "1%")]
        [12000, 12000, 300000, 2000]
    """
    # Up to 18 digits: more parameters than any model has, and no number that takes long to read.
    pattern = r"([0-9]{1,18})|([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([kKmM%])"
    is_count = isinstance(text, int) and 0 <= text < 10**18 and not isinstance(text, bool)
    match = re.fullmatch(pattern, str(text).strip()) if is_count or isinstance(text, str) else None
    if match is None:
        raise BudgetError(
            "The budget must be a count of parameters at or above 0 such as 12000, '12k', "
            f"'0.3M' or '1%' of the backbone, got {text!r}."
        )
    count, number, unit = match.groups()
    if count is not None:
        return int(count)
    # Exact fractions: in binary, 0.3 million is less than 300000.
    if unit == "%":
        return int(Fraction(number) * backbone_parameters / 100)
    return int(Fraction(number) * _UNITS[unit.lower()])


class FeasibleRegion:
    """The architectures of a search space that fit a budget: draw from them, repair into them.

    A draw first takes a target size, uniform between the smallest that is wanted and the budget,
    then draws every dimension from the distribution of highest entropy whose mean size is the
    target, ``p(choice) ~ exp(-u * cost)``. What comes out above the budget is repaired. So sizes
    spread over the whole range for any satisfiable budget, in a bounded number of steps, where
    drawing choices uniformly and rejecting may never end.

    Args:
        space: The search space.
        budget: The most trainable adapter parameters.
        least: The smallest target size of a draw; by default that of the smallest architecture.
            What is drawn scatters around its target, and :meth:`repair` knows no least size.

    Raises:
        BudgetError: If no architecture of the space fits.

    Example:
        >>> from glora_automl.architecture import LayerShape
        >>> from glora_automl.search_space import load_search_space
        >>> space = SearchSpace(load_search_space("default"), {"fc1": LayerShape(64, 32)})
        >>> region = FeasibleRegion(space, 500)
        >>> rng = np.random.default_rng(0)
        >>> max(space.count(region.draw(rng)) for _ in range(100)) <= 500
        True
    """

    def __init__(self, space: SearchSpace, budget: int, least: float = 0) -> None:
        if budget < space.minimum:
            raise BudgetError(
                f"The budget must be at least {space.minimum}, the smallest architecture of the "
                f"search space, got {budget}; raise the budget or allow 'none' in more choices."
            )
        self.space = space
        self.budget = budget
        ceiling = min(budget, space.maximum)
        self._targets = min(max(least, space.minimum), ceiling), ceiling
        width = max((len(d.choices) for d in space.dimensions), default=1)
        shape = (len(space.dimensions), width)
        self._valid = np.zeros(shape, dtype=bool)
        self._costs = np.zeros(shape, dtype=np.int64)
        for row, dimension in enumerate(space.dimensions):
            self._valid[row, : len(dimension.costs)] = True
            self._costs[row, : len(dimension.costs)] = dimension.costs
        self._index = [{choice: i for i, choice in enumerate(d.choices)} for d in space.dimensions]
        # Tilts on both sides of 0, dense around it: costs span four orders of magnitude.
        self._tilts = np.sinh(np.linspace(-12.0, 12.0, 385)) / np.sinh(12.0) * 40.0
        self._means = np.array([self._mean(tilt) for tilt in self._tilts])

    def _probabilities(self, tilt: float) -> np.ndarray:
        energy = np.where(self._valid, -tilt * self._costs, -np.inf)
        energy -= energy.max(axis=1, keepdims=True, initial=-np.inf)
        weights = np.exp(energy)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def _mean(self, tilt: float) -> float:
        return self.space.fixed_count + float((self._probabilities(tilt) * self._costs).sum())

    def _params(self, indices: np.ndarray) -> dict[str, str]:
        return {d.name: d.choices[i] for d, i in zip(self.space.dimensions, indices, strict=True)}

    def _choose(self, probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        cumulative = probabilities.cumsum(axis=1)
        points = rng.random((len(cumulative), 1)) * cumulative[:, -1:]
        return np.asarray((cumulative <= points).sum(axis=1))

    def draw(self, rng: np.random.Generator) -> dict[str, str]:
        """Draw the parameters of an architecture that fits the budget."""
        if not self.space.dimensions:
            return {}
        target = rng.uniform(*self._targets)
        # The means fall as the tilt rises; np.interp wants them rising.
        tilt = float(np.interp(target, self._means[::-1], self._tilts[::-1]))
        return self._params(self._fit(self._choose(self._probabilities(tilt), rng), rng))

    def draw_uniform(self, rng: np.random.Generator) -> dict[str, str]:
        """Draw each choice uniformly, whatever the size: the paper's path distribution."""
        if not self.space.dimensions:
            return {}
        uniform = self._valid / self._valid.sum(axis=1, keepdims=True)
        return self._params(self._choose(uniform, rng))

    def repair(
        self, params: Mapping[str, Any], rng: np.random.Generator, *, keep: Collection[str] = ()
    ) -> dict[str, str]:
        """Bring parameters under the budget, changing as little as possible.

        Parameters that fit come back as they are. Where one cheaper choice is enough, the one
        that saves the least is taken; else choices are made cheaper one by one, the more likely
        the more they save. Every step saves parameters, so the steps are bounded by the number of
        choices.

        Args:
            params: A choice for each dimension.
            rng: Chooses among equals.
            keep: Names of dimensions that stay as they are; other names are ignored. If they alone
                are over the budget, the rest comes back at its cheapest, and over it, too.
        """
        indices = np.array(
            [self._index[row][params[d.name]] for row, d in enumerate(self.space.dimensions)],
            dtype=np.int64,
        )
        kept = np.array([d.name in keep for d in self.space.dimensions], dtype=bool)
        return self._params(self._fit(indices, rng, kept))

    def count(self, limit: int) -> int:
        """Number of architectures that fit, counted up to ``limit``.

        Takes at most ``limit`` times the number of dimensions steps: what cannot fit any more is
        never entered.
        """
        space = self.space
        # The least that the dimensions from a given one on cost.
        rest = np.append(np.cumsum([min(d.costs) for d in space.dimensions][::-1])[::-1], 0)

        found, stack = 0, [(0, space.fixed_count)]
        while stack and found < limit:
            row, spent = stack.pop()
            if row == len(space.dimensions):
                found += 1
                continue
            for cost in space.dimensions[row].costs:
                if spent + cost + rest[row + 1] <= self.budget:
                    stack.append((row + 1, spent + cost))
        return found

    def _fit(
        self, indices: np.ndarray, rng: np.random.Generator, kept: np.ndarray | None = None
    ) -> np.ndarray:
        rows = np.arange(len(indices))
        indices = indices.copy()
        while True:
            costs = self._costs[rows, indices]
            excess = self.space.fixed_count + int(costs.sum()) - self.budget
            if excess <= 0:
                return indices
            savings = np.where(self._valid, costs[:, None] - self._costs, 0).clip(min=0)
            if kept is not None:
                savings[kept] = 0
            if not savings.any():
                return indices
            enough = savings >= excess
            if enough.any():
                candidates = np.argwhere(savings == savings[enough].min())
                row, choice = candidates[rng.integers(len(candidates))]
            else:
                weights = savings.ravel() / savings.sum()
                row, choice = np.unravel_index(rng.choice(weights.size, p=weights), savings.shape)
            indices[row] = choice
