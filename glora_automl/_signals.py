"""Stop at a safe point on SIGINT or SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

__all__ = ["StopOnSignal"]


class StopOnSignal:
    """Context manager that records SIGINT and SIGTERM instead of ending the process.

    A second SIGINT interrupts at once. Outside the main thread, which alone receives signals in
    Python, nothing changes.

    Args:
        log: Called with one line at the first signal.

    Attributes:
        received: Number of the first signal; None before it.

    Example:
        >>> with StopOnSignal(print) as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop()
        Stopping at the next safe point; another Ctrl-C stops at once.
        True
    """

    def __init__(self, log: Callable[[str], object]) -> None:
        self._log = log
        self._handlers: dict[int, object] = {}
        self.received: int | None = None

    def __call__(self) -> bool:
        """Return whether a signal has arrived."""
        return self.received is not None

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._record)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.received = number
        self._log("Stopping at the next safe point; another Ctrl-C stops at once.")
