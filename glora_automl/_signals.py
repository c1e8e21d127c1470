"""Stopping at a safe point when the user or a scheduler asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

__all__ = ["StopOnSignal"]


class StopOnSignal:
    """Inside its block, SIGINT and SIGTERM are noted instead of ending the process.

    A second SIGINT interrupts at once, wherever the process is. Outside of the main thread, where
    Python delivers no signals, nothing changes.

    Args:
        tell: Told when the first signal comes.

    Attributes:
        received: Number of the signal that came, if any.

    Example:
        >>> with StopOnSignal(print) as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop()
        Stopping at the next safe point; another Ctrl-C stops at once.
        True
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._before: dict[int, object] = {}
        self.received: int | None = None

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.received is not None

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.received = number
        self._tell("Stopping at the next safe point; another Ctrl-C stops at once.")
