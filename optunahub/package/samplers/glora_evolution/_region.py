"""Regions of feasible proposals, and repair around fixed parameters."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any, Protocol, cast

import numpy as np

__all__ = ["KeepingRegion", "Region", "repair_around"]

_ATTEMPTS = 50


class Region(Protocol):
    """A subset of a search space, such as the architectures under a budget."""

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw parameters from the region."""

    def repair(self, params: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Move parameters into the region; return those inside unchanged."""


class KeepingRegion(Region, Protocol):
    """A region that can repair around fixed parameters."""

    def repair(
        self, params: Mapping[str, Any], rng: np.random.Generator, *, keep: Collection[str] = ()
    ) -> dict[str, Any]:
        """Move parameters into the region without changing those named in ``keep``."""


def repair_around(
    region: Region,
    params: Mapping[str, Any],
    fixed: Mapping[str, Any],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Repair parameters without changing the fixed ones.

    A :class:`KeepingRegion` does this itself. With another region the free parameters are
    repaired again, and later drawn again, for a bounded number of attempts.

    Args:
        region: The region.
        params: The parameters; ``fixed`` overrides them.
        fixed: Parameters that must not change.
        rng: Random generator.

    Returns:
        All parameters. They are outside the region if no attempt was successful.

    Example:
        >>> class Total:  # a sum of at most 3
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
    proposal = {**params, **fixed}
    if not fixed:
        return {**proposal, **region.repair(proposal, rng)}
    if "keep" in inspect.signature(region.repair).parameters:
        keeping = cast(KeepingRegion, region)
        return {**proposal, **keeping.repair(proposal, rng, keep=frozenset(fixed)), **fixed}
    for attempt in range(_ATTEMPTS):
        repaired = {**proposal, **region.repair(proposal, rng)}
        if all(repaired[name] == value for name, value in fixed.items()):
            return repaired
        # Changes to the free parameters add up over the attempts. A repair that always changes
        # the same fixed parameter needs another start.
        start = repaired if attempt < _ATTEMPTS // 2 else {**proposal, **region.draw(rng)}
        proposal = {**start, **fixed}
    return proposal
