"""The protocol of a tracker, and a guard around trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from glora_automl._messages import one_line, redact

__all__ = ["GuardedTracker", "Tracker"]


class Tracker(Protocol):
    """What records a study outside of Optuna, such as MLflow.

    One tracker records the work of one process. Metrics of several workers are several runs with
    the name of the study.
    """

    def start(self, study: str, settings: Mapping[str, Any], folder: Path) -> None:
        """Begin a run.

        Args:
            study: Name of the study.
            settings: Flat settings of the recipe.
            folder: Folder of the study on this machine.
        """

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Record numbers.

        Args:
            group: Stage, ``trials`` or ``result``.
            values: Numbers by name.
            step: Epoch, or number of the trial.
        """

    def add_file(self, path: Path) -> None:
        """Record a file, such as the weights of the selected adapter."""

    def finish(self, *, failed: bool) -> None:
        """End the run.

        Args:
            failed: Whether the work ended by an error or a stop.
        """


class GuardedTracker:
    """Calls several trackers; a fault of one is logged, and that one is left out from then on.

    Args:
        trackers: The trackers.
        log: Logs a line.

    Example:
        >>> class Broken:
        ...     def add_file(self, path):
        ...         raise OSError("the server is down")
        >>> tracker = GuardedTracker([Broken()], print)
        >>> tracker.add_file(Path("winner.json"))
        Broken is left out from here on: the server is down
        >>> tracker.add_file(Path("winner.json"))
    """

    def __init__(self, trackers: Iterable[Any], log: Callable[[str], object]) -> None:
        self._trackers = list(trackers)
        self._log = log

    def start(self, study: str, settings: Mapping[str, Any], folder: Path) -> None:
        """See :meth:`Tracker.start`."""
        self._each("start", study, settings, folder)

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        """See :meth:`Tracker.log`."""
        self._each("log", group, values, step)

    def add_file(self, path: Path) -> None:
        """See :meth:`Tracker.add_file`."""
        self._each("add_file", path)

    def finish(self, *, failed: bool) -> None:
        """See :meth:`Tracker.finish`."""
        self._each("finish", failed=failed)

    def _each(self, method: str, *args: Any, **kwargs: Any) -> None:
        for tracker in tuple(self._trackers):
            try:
                getattr(tracker, method)(*args, **kwargs)
            except Exception as error:  # a study must not end by its tracker
                self._trackers.remove(tracker)
                name = type(tracker).__name__
                self._log(f"{name} is left out from here on: {redact(one_line(error))}")
