"""Values of an Optuna distribution."""

from __future__ import annotations

from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

__all__ = ["contains", "convert", "single_value"]


def contains(dist: BaseDistribution, value: Any) -> bool:
    """Return whether a distribution contains a value.

    Example:
        >>> [contains(IntDistribution(0, 9), value) for value in (3, 3.5, 10, "three")]
        [True, False, False, False]
    """
    if isinstance(dist, CategoricalDistribution):
        return value in dist.choices
    try:
        return bool(dist._contains(dist.to_internal_repr(value)))
    except ValueError:  # no number: the name once had a categorical distribution
        return False


def convert(dist: BaseDistribution, value: Any) -> Any:
    """Convert a value to the type of its distribution.

    Example:
        >>> convert(FloatDistribution(0, 9), 3)
        3.0
    """
    if isinstance(dist, CategoricalDistribution):
        return value
    return dist.to_external_repr(dist.to_internal_repr(value))


def single_value(dist: BaseDistribution) -> Any:
    """Return the only value of a distribution that has one.

    Example:
        >>> single_value(IntDistribution(4, 4))
        4
    """
    if isinstance(dist, CategoricalDistribution):
        return dist.choices[0]
    assert isinstance(dist, FloatDistribution | IntDistribution)
    return dist.low
