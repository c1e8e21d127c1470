"""Stop on SIGINT or SIGTERM: at a safe point, or at once in work without safe points."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, TypeVar

from glora_automl.errors import Stopped

__all__ = ["StopOnSignal", "call_stoppable", "end_on_signal", "raise_on_interrupt"]

_Result = TypeVar("_Result")

_SHOW_CURSOR = b"\x1b[?25h"
"""Escape sequence; a live display hides the cursor of its terminal."""


def end_on_signal() -> None:
    """Let SIGINT and SIGTERM end the process at once, until :class:`StopOnSignal` takes them over.

    The kernel drops SIGTERM for process 1 of a container that has no handler. A signal that this
    process was started to ignore stays ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    # A library that is being imported may catch any exception. Nothing is open that could be lost.
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR)
    os._exit(128 + number)


def raise_on_interrupt() -> None:
    """Let SIGINT raise ``KeyboardInterrupt`` again, in work that cleans up."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


def call_stoppable(work: Callable[[], _Result], stop: Callable[[], bool] | None) -> _Result:
    """Call a function that has no safe point, such as a download, and stop waiting if asked to.

    The function runs in a thread, as nothing can interrupt a library that waits for a network. The
    thread ends with the process.

    Args:
        work: The function.
        stop: Returns whether to stop. Without it the function is called as it is.

    Raises:
        Stopped: If ``stop`` asked to stop.

    Example:
        >>> call_stoppable(lambda: "downloaded", lambda: False)
        'downloaded'
    """
    if stop is None:
        return work()
    found: dict[str, Any] = {}

    def run() -> None:
        try:
            found["result"] = work()
        except BaseException as error:
            found["error"] = error

    thread = threading.Thread(target=run, name="glora stoppable", daemon=True)
    thread.start()
    while thread.is_alive():
        if stop():
            raise Stopped("The work was asked to stop.")
        thread.join(0.1)
    if "error" in found:
        raise found["error"]
    result: _Result = found["result"]
    return result
