"""Values of any Optuna distribution."""

from __future__ import annotations

from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

__all__ = ["allows", "convert", "single_value"]


def allows(dist: BaseDistribution, value: Any) -> bool:
    """Whether a distribution has a value.

    Example:
        >>> [allows(IntDistribution(0, 9), value) for value in (3, 3.5, 10, "three")]
        [True, False, False, False]
    """
    if isinstance(dist, CategoricalDistribution):
        return value in dist.choices
    try:
        return bool(dist._contains(dist.to_internal_repr(value)))
    except ValueError:  # no number, from a time when this was another parameter
        return False


def convert(dist: BaseDistribution, value: Any) -> Any:
    """A value as its distribution gives it.

    Example:
        >>> convert(FloatDistribution(0, 9), 3)
        3.0
    """
    if isinstance(dist, CategoricalDistribution):
        return value
    return dist.to_external_repr(dist.to_internal_repr(value))


def single_value(dist: BaseDistribution) -> Any:
    """The one value of a distribution that has no other.

    Example:
        >>> single_value(IntDistribution(4, 4))
        4
    """
    if isinstance(dist, CategoricalDistribution):
        return dist.choices[0]
    assert isinstance(dist, FloatDistribution | IntDistribution)
    return dist.low
