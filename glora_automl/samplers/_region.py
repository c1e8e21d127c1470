"""Regions that proposals must lie in, and proposals of which a part is given."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any, Protocol, cast

import numpy as np

__all__ = ["KeepingRegion", "Region", "repair_around"]

_TRIES = 50


class Region(Protocol):
    """Where proposals must lie, such as under a budget."""

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the parameters of a proposal."""

    def repair(self, params: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Bring parameters into the region; those inside come back as they are."""


class KeepingRegion(Region, Protocol):
    """A region that repairs around parameters which somebody has fixed."""

    def repair(
        self, params: Mapping[str, Any], rng: np.random.Generator, *, keep: Collection[str] = ()
    ) -> dict[str, Any]:
        """Bring parameters into the region, changing those named by ``keep`` in no case."""


def repair_around(
    region: Region,
    params: Mapping[str, Any],
    fixed: Mapping[str, Any],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Bring parameters into a region and leave those that are fixed as they are.

    A :class:`KeepingRegion` is asked to do so. With any other one this is tried a bounded number
    of times: what is not fixed is repaired further, then drawn anew.

    Args:
        region: The region.
        params: The parameters; where ``fixed`` names them, too, that value counts.
        fixed: What must not change.
        rng: Random numbers.

    Returns:
        All parameters. If nothing was found with the fixed values in the region, it is outside.

    Example:
        >>> class Total:  # the sum must be at most 3; any of them may be lowered
        ...     def draw(self, rng):
        ...         return {"a": 1, "b": 1}
        ...     def repair(self, params, rng):
        ...         params = dict(params)
        ...         while sum(params.values()) > 3:
        ...             params[rng.choice([n for n in params if params[n]])] -= 1
        ...         return params
        >>> repair_around(Total(), {"a": 3, "b": 2}, {"a": 3}, np.random.default_rng(0))
        {'a': 3, 'b': 0}
    """
    whole = {**params, **fixed}
    if not fixed:
        return {**whole, **region.repair(whole, rng)}
    if "keep" in inspect.signature(region.repair).parameters:
        keeping = cast(KeepingRegion, region)
        return {**whole, **keeping.repair(whole, rng, keep=frozenset(fixed)), **fixed}
    for attempt in range(_TRIES):
        repaired = {**whole, **region.repair(whole, rng)}
        if all(repaired[name] == value for name, value in fixed.items()):
            return repaired
        # A repair that touched what is fixed may have touched the rest, too, and what it did there
        # adds up; if it always takes the same fixed one, only another start helps.
        start = repaired if attempt < _TRIES // 2 else {**whole, **region.draw(rng)}
        whole = {**start, **fixed}
    return whole
