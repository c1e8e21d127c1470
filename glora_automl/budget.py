"""The budget, and the architectures that fit it: draw, repair, count."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Integral
from typing import Any

import numpy as np
from pydantic_core import CoreSchema, core_schema

from glora_automl._messages import short
from glora_automl.errors import BudgetError
from glora_automl.search_space import SearchSpace

__all__ = ["Budget", "FeasibleRegion"]

_UNITS = {"k": 1_000, "m": 1_000_000}
# At most 18 digits: enough for any model, and quick to parse.
_LIMIT = 10**18
_FORM = re.compile(r"([0-9]{1,18})|([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([kKmM%])")


@dataclass(frozen=True, slots=True)
class Budget:
    """The most trainable adapter parameters of an architecture, without the classifier head.

    A budget is a count (``12000``), a count with a unit (``"12k"``, ``"0.3M"``) or a percentage of
    the backbone's parameters (``"1%"``). A budget of 0 trains the classifier head only. As a field
    of a pydantic model it is parsed on the way in and dumped as it was written.

    Attributes:
        amount: Parameters, or per cent of the backbone's parameters. It is exact: in binary, 0.3
            million is less than 300,000.
        is_percentage: Whether the amount is per cent.
        written: The value that was parsed. Equality ignores it: ``"12k"`` equals ``12000``.

    Example:
        >>> budget = Budget.parse("1%")
        >>> str(budget), budget.resolve(200_000)
        ('1%', 2000)
        >>> [Budget.parse(value).resolve(200_000) for value in (12000, "12k", "0.3M")]
        [12000, 12000, 300000]
    """

    amount: Fraction
    is_percentage: bool
    written: int | str = field(compare=False)

    @classmethod
    def parse(cls, value: Budget | int | str) -> Budget:
        """Parse a budget. A :class:`Budget` is returned as it is.

        Raises:
            BudgetError: If the value is malformed or negative.
        """
        try:
            return cls._read(value)
        except BudgetError as error:
            raise BudgetError(f"budget {error} Correct `budget`.") from None

    @classmethod
    def _read(cls, value: Budget | int | str) -> Budget:
        """Parse a budget; the message of an error does not name its argument."""
        if isinstance(value, Budget):
            return value
        written = value
        if isinstance(value, Integral) and not isinstance(value, bool):  # NumPy's integers, too
            written = int(value)
            match = _FORM.fullmatch(str(written)) if 0 <= written < _LIMIT else None
        else:
            match = _FORM.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise BudgetError(
                "must be a count of parameters at or above 0 such as 12000, '12k', '0.3M' or '1%' "
                f"of the backbone, got {short(value)}."
            )
        count, number, unit = match.groups()
        if count is not None:
            return cls(Fraction(count), False, written)
        if unit == "%":
            if Fraction(number) > 100:
                raise BudgetError(f"must be at most 100% of the backbone, got {short(value)}.")
            return cls(Fraction(number), True, written)
        return cls(Fraction(number) * _UNITS[unit.lower()], False, written)

    def resolve(self, n_backbone_params: int) -> int:
        """Return the budget as a count of parameters, rounded down.

        Args:
            n_backbone_params: Parameters of the backbone without its classifier.
        """
        return int(self.amount * n_backbone_params / 100 if self.is_percentage else self.amount)

    def __str__(self) -> str:
        return str(self.written)

    def __repr__(self) -> str:
        return f"Budget.parse({self.written!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda budget: budget.written
            ),
        )


class FeasibleRegion:
    """The architectures of a search space that fit a budget.

    A draw first takes a target count, uniform between ``min_target`` and the budget. It then draws
    every dimension from the maximum-entropy distribution with that mean count, ``p(choice) ~
    exp(-u * cost)``, and repairs an architecture above the budget. So counts spread over the whole
    range, in a bounded number of steps. Rejection of uniform draws may never end.

    Args:
        space: The search space.
        budget: The most trainable adapter parameters.
        min_target: Smallest target count of a draw; by default that of the smallest architecture.
            Counts scatter around their target, and :meth:`repair` ignores it.
        allowed: Choices that the region is restricted to, by dimension. Each dimension keeps its
            cheapest choice.

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

    def __init__(
        self,
        space: SearchSpace,
        budget: int,
        min_target: float = 0,
        allowed: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        if budget < space.minimum:
            raise BudgetError(
                f"The budget must be at least {space.minimum}, the smallest architecture of the "
                f"search space, got {budget}. Raise `budget` or allow 'none' in more choices."
            )
        self.space = space
        self.budget = budget
        width = max((len(d.choices) for d in space.dimensions), default=1)
        shape = (len(space.dimensions), width)
        self._valid = np.zeros(shape, dtype=bool)
        self._costs = np.zeros(shape, dtype=np.int64)
        for row, dimension in enumerate(space.dimensions):
            self._valid[row, : len(dimension.costs)] = True
            self._costs[row, : len(dimension.costs)] = dimension.costs
            if allowed is not None:
                cheapest = min(dimension.costs)
                self._valid[row, : len(dimension.costs)] = [
                    choice in allowed[dimension.name] or cost == cheapest
                    for choice, cost in zip(dimension.choices, dimension.costs, strict=True)
                ]
        largest = np.where(self._valid, self._costs, 0).max(axis=1, initial=0).sum()
        ceiling = min(budget, space.fixed_count + int(largest))
        self._targets = min(max(min_target, space.minimum), ceiling), ceiling
        self._index = [{choice: i for i, choice in enumerate(d.choices)} for d in space.dimensions]
        # Tilts are dense around 0, as costs span four orders of magnitude.
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
        """Draw an architecture within the budget and return its Optuna parameters."""
        if not self.space.dimensions:
            return {}
        target = rng.uniform(*self._targets)
        # The means fall as the tilt rises; np.interp needs rising ones.
        tilt = float(np.interp(target, self._means[::-1], self._tilts[::-1]))
        return self._params(self._fit(self._choose(self._probabilities(tilt), rng), rng))

    def draw_uniform(self, rng: np.random.Generator) -> dict[str, str]:
        """Draw each choice uniformly, regardless of the budget: the paper's path distribution."""
        if not self.space.dimensions:
            return {}
        uniform = self._valid / self._valid.sum(axis=1, keepdims=True)
        return self._params(self._choose(uniform, rng))

    def repair(
        self, params: Mapping[str, Any], rng: np.random.Generator, *, keep: Collection[str] = ()
    ) -> dict[str, str]:
        """Bring an architecture into the region with as few changes as possible.

        A choice that is not allowed becomes the largest allowed one below it. Parameters within
        the budget are otherwise returned unchanged. If one cheaper choice is enough, the
        repair takes the one that saves the least. Otherwise it draws cheaper choices one by one,
        with a probability proportional to their saving. Every step saves parameters, so the number
        of choices bounds the steps.

        Args:
            params: One choice per dimension.
            rng: Source of random numbers.
            keep: Names of dimensions that stay unchanged; unknown names are ignored. If these
                alone exceed the budget, the result has the cheapest other choices and exceeds it.
        """
        indices = np.array(
            [self._index[row][params[d.name]] for row, d in enumerate(self.space.dimensions)],
            dtype=np.int64,
        )
        kept = np.array([d.name in keep for d in self.space.dimensions], dtype=bool)
        rows = np.arange(len(indices))
        for row in np.flatnonzero(~self._valid[rows, indices] & ~kept):
            below = self._valid[row] & (self._costs[row] <= self._costs[row, indices[row]])
            indices[row] = int(np.argmax(np.where(below, self._costs[row], -1)))
        return self._params(self._fit(indices, rng, kept))

    def count(self, limit: int) -> int:
        """Return the number of architectures that fit, counted up to ``limit``.

        Architectures of equal size are counted together, one dimension after another. Beginnings
        that cannot fit are dropped, so each of the others is a different architecture at least:
        their number ends the count, and with it the memory.
        """
        space = self.space
        # Smallest total cost of the dimensions from a row on.
        rest = np.append(np.cumsum([min(d.costs) for d in space.dimensions][::-1])[::-1], 0)
        counts = {space.fixed_count: 1}
        for dimension, least in zip(space.dimensions, rest[1:].tolist(), strict=True):
            longer: dict[int, int] = {}
            for spent, count in counts.items():
                for cost in dimension.costs:
                    if (total := spent + cost) + least <= self.budget:
                        longer[total] = longer.get(total, 0) + count
            counts = longer
            if sum(counts.values()) >= limit:
                return limit
        return sum(counts.values())

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
