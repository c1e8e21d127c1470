"""How long work tells of its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from glora_automl.progress._state import SearchState

__all__ = ["Advance", "Progress"]


class Advance(Protocol):
    """Tells a stage that ``steps`` more are done.

    ``note`` says what is best so far: a text, or the state of a search, of which a terminal shows
    more than its text. Steps of an ``earlier`` run do not count for the rate.
    """

    def __call__(
        self, steps: int = 1, note: str | SearchState = "", *, earlier: bool = False
    ) -> None:
        """See the class."""


class Progress:
    """Shows nothing: the base class, and what ``--quiet`` takes.

    Example:
        >>> with Progress().stage("Search", total=2, unit="trials") as advance:
        ...     advance(1, "best 90%")
    """

    def log(self, text: str) -> None:
        """Tell one line."""

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """Open a stage of ``total`` steps.

        Yields:
            A function to call as steps are done.
        """

        def advance(steps: int = 1, note: str | SearchState = "", *, earlier: bool = False) -> None:
            pass

        yield advance

    @contextmanager
    def epochs(self, title: str, total: int) -> Iterator[Callable[[int, float], None]]:
        """Open a stage for a training.

        Yields:
            The ``on_epoch`` of :func:`glora_automl.training.train`.
        """
        with self.stage(title, total, "epochs") as advance:
            before = 0

            def on_epoch(done: int, loss: float) -> None:
                nonlocal before
                # A resumed training first reports all epochs that were done before.
                advance(done - before, f"loss {loss:.3f}", earlier=done - before > 1)
                before = done

            yield on_epoch
