"""Coloured cells and sparklines."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["shade", "sparkline"]

_SHADES = ("#deebf7", "#9ecae1", "#6baed6", "#2171b5", "#08306b")
"""Colours for counts from 1, 10, 100, 1,000 and 10,000 on."""

_HEIGHTS = "▁▂▃▄▅▆▇█"


def shade(count: int) -> str:
    """Return the rich style of a cell for a count of parameters; darker cells have more.

    Example:
        >>> shade(0), shade(1), shade(20_000)
        ('dim', '#000000 on #deebf7', '#ffffff on #08306b')
    """
    if not count:
        return "dim"
    place = min(len(str(count)), len(_SHADES)) - 1
    return f"{'#ffffff' if place >= 3 else '#000000'} on {_SHADES[place]}"


def sparkline(values: Sequence[float]) -> str:
    """Return one character per value, higher for larger values; equal values are in the middle.

    Example:
        >>> sparkline([0.5, 0.6, 0.9, 1.2]), sparkline([3, 3])
        ('▁▂▅█', '▄▄')
    """
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low == high:
        return _HEIGHTS[3] * len(values)
    most = len(_HEIGHTS) - 1
    return "".join(_HEIGHTS[round(most * (value - low) / (high - low))] for value in values)
