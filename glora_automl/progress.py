"""Progress of long work: bars on a terminal, plain lines elsewhere, nothing on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Advance", "LineProgress", "Progress", "TerminalProgress"]


class Advance(Protocol):
    """Tells a stage that ``steps`` more are done.

    ``note`` says what is best so far. Steps of an ``earlier`` run do not count for the rate.
    """

    def __call__(self, steps: int = 1, note: str = "", *, earlier: bool = False) -> None:
        """See the class."""


class Progress:
    """Shows nothing: the base class, and what ``--quiet`` takes.

    Example:
        >>> with Progress().stage("Search", total=2, unit="trials") as advance:
        ...     advance(1, "best 90%")
    """

    def say(self, text: str) -> None:
        """Tell one line."""

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """Open a stage of ``total`` steps.

        Yields:
            A function to call as steps are done.
        """

        def advance(steps: int = 1, note: str = "", *, earlier: bool = False) -> None:
            pass

        yield advance

    @contextmanager
    def epochs(self, title: str, total: int) -> Iterator[Callable[[int, float], None]]:
        """Open a stage for a training.

        Yields:
            The ``on_epoch`` of :func:`glora_automl.supernet.train`.
        """
        with self.stage(title, total, "epochs") as advance:
            before = 0

            def on_epoch(done: int, loss: float) -> None:
                nonlocal before
                # A resumed training first reports all epochs that were done before.
                advance(done - before, f"loss {loss:.3f}", earlier=done - before > 1)
                before = done

            yield on_epoch


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class LineProgress(Progress):
    """Plain lines for logs: at the start, every ``interval`` seconds and at the end of a stage.

    Args:
        write: Takes one line.
        interval: Seconds between lines.
    """

    def __init__(self, write: Callable[[str], None], interval: float = 10.0) -> None:
        self._write = write
        self._interval = interval

    def say(self, text: str) -> None:
        """Write the line."""
        self._write(text)

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """See :meth:`Progress.stage`."""
        start = last = time.monotonic()
        done, before, latest = 0, 0, ""
        self._write(f"{title}: {total} {unit}")

        def line(end: bool) -> None:
            elapsed = max(time.monotonic() - start, 1e-9)
            rate = (done - before) / elapsed
            parts = [f"{title}: {done}/{total} {unit}", f"{rate:.1f} {unit}/s"]
            parts += [latest] if latest else []
            if end:
                parts.append(f"{_duration(elapsed)} in all")
            elif rate > 0:
                parts.append(f"{_duration((total - done) / rate)} left")
            self._write(", ".join(parts))

        def advance(steps: int = 1, note: str = "", *, earlier: bool = False) -> None:
            nonlocal done, before, latest, last
            done, latest = done + steps, note or latest
            before += steps if earlier else 0
            if time.monotonic() - last >= self._interval and done < total:
                last = time.monotonic()
                line(end=False)

        yield advance
        line(end=True)


class TerminalProgress(Progress):
    """A bar with rate, best so far and time left for each stage.

    Args:
        console: The rich console of the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """Print the line above the bar."""
        self._console.print(text, highlight=False, markup=False)

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """See :meth:`Progress.stage`."""
        from rich import progress

        start, done = time.monotonic(), 0
        columns = (
            progress.TextColumn("{task.description:<22}", markup=False),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}", markup=False),
            progress.TextColumn("{task.fields[note]}", markup=False),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=self._console) as bars:
            task = bars.add_task(title, total=total, rate="", note="")

            def advance(steps: int = 1, note: str = "", *, earlier: bool = False) -> None:
                nonlocal done
                done += 0 if earlier else steps
                rate = done / max(time.monotonic() - start, 1e-9)
                bars.update(task, advance=steps, rate=f"{rate:.1f} {unit}/s")
                if note:
                    bars.update(task, note=note)

            yield advance
