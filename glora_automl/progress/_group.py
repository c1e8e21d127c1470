"""Several displays of one progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from glora_automl.progress._progress import Advance, Progress
from glora_automl.progress._state import SearchState

__all__ = ["ProgressGroup"]


class ProgressGroup(Progress):
    """Shows a progress on several displays, such as a terminal and a log file.

    Args:
        members: The displays.

    Example:
        >>> from glora_automl.progress import LineProgress
        >>> first, second = [], []
        >>> group = ProgressGroup([LineProgress(first.append), LineProgress(second.append)])
        >>> group.log("Three images are copies.")
        >>> first == second == ["Three images are copies."]
        True
    """

    def __init__(self, members: Sequence[Progress]) -> None:
        self._members = tuple(members)

    def log(self, text: str) -> None:
        """Log the line everywhere."""
        for member in self._members:
            member.log(text)

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """See :meth:`Progress.stage`."""
        with ExitStack() as stack:
            advances = [stack.enter_context(m.stage(title, total, unit)) for m in self._members]

            def advance(
                steps: int = 1, note: str | SearchState = "", *, earlier: bool = False
            ) -> None:
                for each in advances:
                    each(steps, note, earlier=earlier)

            yield advance

    @contextmanager
    def epochs(self, title: str, total: int) -> Iterator[Callable[[int, float], None]]:
        """See :meth:`Progress.epochs`."""
        with ExitStack() as stack:
            reports = [stack.enter_context(m.epochs(title, total)) for m in self._members]

            def on_epoch(done: int, loss: float) -> None:
                for report in reports:
                    report(done, loss)

            yield on_epoch
