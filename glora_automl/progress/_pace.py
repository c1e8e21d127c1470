"""How fast a stage is."""

from __future__ import annotations

import time

__all__ = ["Pace", "duration"]


def duration(seconds: float) -> str:
    """Seconds as a clock shows them.

    Example:
        >>> duration(75), duration(3600)
        ('1:15', '1:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Pace:
    """Steps of a stage, their rate, and the time that the others will take.

    Args:
        total: Steps of the stage.
        unit: What a step is.

    Attributes:
        done: Steps so far.
    """

    def __init__(self, total: int, unit: str) -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self._earlier = 0
        self._start = time.monotonic()

    def step(self, steps: int, *, earlier: bool) -> None:
        """Count steps; those of an earlier run took none of this one's time."""
        self.done += steps
        self._earlier += steps if earlier else 0

    @property
    def elapsed(self) -> float:
        """Seconds since the stage was opened."""
        return max(time.monotonic() - self._start, 1e-9)

    @property
    def rate(self) -> float:
        """Steps a second."""
        return (self.done - self._earlier) / self.elapsed

    @property
    def count_text(self) -> str:
        """How many steps of how many are done."""
        return f"{self.done}/{self.total} {self.unit}"

    @property
    def rate_text(self) -> str:
        """The rate with its unit."""
        return f"{self.rate:.1f} {self.unit}/s"

    def time_text(self, *, end: bool) -> str:
        """The time that is left, or at the end that it took; nothing if it cannot be known."""
        if end:
            return f"{duration(self.elapsed)} in all"
        return f"{duration((self.total - self.done) / self.rate)} left" if self.rate > 0 else ""
