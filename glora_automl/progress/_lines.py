"""Progress as plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from glora_automl.progress._pace import Pace
from glora_automl.progress._progress import Advance, Progress
from glora_automl.progress._state import SearchState

__all__ = ["LineProgress"]


class LineProgress(Progress):
    """Plain lines at the start of a stage, every ``interval`` seconds, and at the end.

    Args:
        write: Function that writes one line.
        interval: Minimum seconds between lines.
    """

    def __init__(self, write: Callable[[str], None], interval: float = 10.0) -> None:
        self._write = write
        self._interval = interval

    def log(self, text: str) -> None:
        """Write the line."""
        self._write(text)

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """See :meth:`Progress.stage`."""
        pace, last = Pace(total, unit), time.monotonic()
        latest: str | SearchState = ""
        self._write(f"{title}: {total} {unit}")

        def line(end: bool) -> None:
            parts = [f"{title}: {pace.count_text}", pace.rate_text, str(latest)]
            self._write(", ".join(filter(None, [*parts, pace.time_text(end=end)])))

        def advance(steps: int = 1, note: str | SearchState = "", *, earlier: bool = False) -> None:
            nonlocal latest, last
            pace.step(steps, earlier=earlier)
            latest = note or latest
            if time.monotonic() - last >= self._interval and pace.done < total:
                last = time.monotonic()
                line(end=False)

        yield advance
        line(end=True)
