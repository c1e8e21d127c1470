"""Steps, rate and remaining time of a stage."""

from __future__ import annotations

import re
import time

__all__ = ["Pace", "duration", "parse_duration"]

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:(\d{{1,9}}(?:\.\d{{1,9}})?){unit})?" for unit in _UNITS))


def duration(seconds: float) -> str:
    """Format seconds as ``minutes:seconds`` or ``hours:minutes:seconds``.

    Example:
        >>> duration(75), duration(3600)
        ('1:15', '1:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def parse_duration(text: str) -> float | None:
    """Return the seconds of ``1h``, ``90m``, ``1h30m``, ``30s`` or ``30``; None of other text.

    Example:
        >>> parse_duration("1h30m"), parse_duration("90"), parse_duration("soon")
        (5400.0, 90.0, None)
    """
    text = text.strip().lower()
    match = _DURATION.fullmatch(f"{text}s" if re.fullmatch(r"[\d.]+", text) else text)
    if match is None or not text:
        return None
    found = zip(match.groups(), _UNITS.values(), strict=True)
    return sum(float(number) * unit for number, unit in found if number is not None)


class Pace:
    """Steps of a stage, their rate, and the remaining time.

    Args:
        total: Number of steps.
        unit: Unit of the steps, in plural.

    Attributes:
        done: Number of finished steps.
    """

    def __init__(self, total: int, unit: str) -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self._earlier = 0
        self._start = time.monotonic()

    def step(self, steps: int, *, earlier: bool) -> None:
        """Count finished steps; the rate excludes those of an earlier run."""
        self.done += steps
        self._earlier += steps if earlier else 0

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the stage."""
        return max(time.monotonic() - self._start, 1e-9)

    @property
    def rate(self) -> float:
        """Steps per second."""
        return (self.done - self._earlier) / self.elapsed

    @property
    def count_text(self) -> str:
        """Finished and total steps with their unit."""
        return f"{self.done}/{self.total} {self.unit}"

    @property
    def rate_text(self) -> str:
        """Rate with its unit, of slow steps the seconds per step; empty before the first one."""
        if 0 < self.rate < 1:
            return f"{1 / self.rate:.1f} s/{self.unit.removesuffix('s')}"
        return f"{self.rate:.1f} {self.unit}/s" if self.rate else ""

    def time_text(self, *, end: bool) -> str:
        """Format the remaining time, or at the end the elapsed time; empty without a rate."""
        if end:
            return f"{duration(self.elapsed)} elapsed"
        return f"{duration((self.total - self.done) / self.rate)} left" if self.rate > 0 else ""
