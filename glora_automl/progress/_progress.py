"""Interface through which long work reports its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from glora_automl.progress._state import SearchState

__all__ = ["Advance", "Progress"]


class Advance(Protocol):
    """Function that reports finished steps of a stage."""

    def __call__(
        self, steps: int = 1, note: str | SearchState = "", *, earlier: bool = False
    ) -> None:
        """Report steps.

        Args:
            steps: Number of newly finished steps.
            note: Best result so far, as a text or as the state of a search.
            earlier: Whether an earlier run did these steps; the rate excludes them.
        """


class Progress:
    """Silent progress; subclasses show it.

    Example:
        >>> with Progress().stage("Search", total=2, unit="trials") as advance:
        ...     advance(1, "best 90%")
    """

    def log(self, text: str) -> None:
        """Log one line."""

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """Open a stage of ``total`` steps.

        Yields:
            A function that reports finished steps.
        """

        def advance(steps: int = 1, note: str | SearchState = "", *, earlier: bool = False) -> None:
            pass

        yield advance

    @contextmanager
    def epochs(self, title: str, total: int) -> Iterator[Callable[[int, float], None]]:
        """Open a stage for the epochs of a training.

        Yields:
            The ``on_epoch`` of :func:`glora_automl.training.train`.
        """
        with self.stage(title, total, "epochs") as advance:
            last = 0

            def on_epoch(done: int, loss: float) -> None:
                nonlocal last
                # A resumed training first reports all epochs of earlier runs at once.
                advance(done - last, f"loss {loss:.3f}", earlier=done - last > 1)
                last = done

            yield on_epoch
