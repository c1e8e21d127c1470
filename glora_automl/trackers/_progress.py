"""Progress of stages and epochs as a tracker's metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from glora_automl.progress import Advance, Progress
from glora_automl.trackers._tracker import GuardedTracker

__all__ = ["TrackerProgress"]


class TrackerProgress(Progress):
    """Records the seconds of each stage, and the loss of each epoch.

    Args:
        tracker: The tracker.
    """

    def __init__(self, tracker: GuardedTracker) -> None:
        self._tracker = tracker

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """See :meth:`Progress.stage`."""
        begin = time.monotonic()
        with super().stage(title, total, unit) as advance:
            yield advance
        self._tracker.log(title, {"seconds": time.monotonic() - begin}, total)

    @contextmanager
    def epochs(self, title: str, total: int) -> Iterator[Callable[[int, float], None]]:
        """See :meth:`Progress.epochs`."""
        with self.stage(title, total, "epochs"):
            yield lambda done, loss: self._tracker.log(title, {"loss": loss}, done)
