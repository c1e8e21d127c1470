"""Progress on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from glora_automl.progress._pace import Pace
from glora_automl.progress._panel import StageLine, StagePanel
from glora_automl.progress._progress import Advance, Progress
from glora_automl.progress._state import SearchState

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.segment import Segment

__all__ = ["TerminalProgress"]

REFRESHES = 4
"""Refreshes of the terminal per second, independent of the rate of the steps."""


class TerminalProgress(Progress):
    """Progress bar per stage, and panel for a search; the last display of a stage stays.

    Args:
        console: Rich console of the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def log(self, text: str) -> None:
        """Print the line above the bar."""
        self._console.print(text, highlight=False, markup=False)

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """See :meth:`Progress.stage`."""
        from rich.live import Live

        pace, ended = Pace(total, unit), False
        latest: str | SearchState = ""
        frame = _Frame(self._console)

        def render() -> _Frame:
            if isinstance(latest, SearchState):
                panel = StagePanel(title, pace, latest, end=ended)
                if frame.draw(panel, whole=True):
                    return frame
            frame.draw(StageLine(title, pace, str(latest), end=ended))
            return frame

        def advance(steps: int = 1, note: str | SearchState = "", *, earlier: bool = False) -> None:
            nonlocal latest
            pace.step(steps, earlier=earlier)
            latest = note or latest

        # A thread of Live draws, so steps between two refreshes cost no drawing.
        with Live(console=self._console, get_renderable=render, refresh_per_second=REFRESHES):
            yield advance
            ended = True


class _Frame:
    """The last drawing, which is erased correctly after the terminal has become narrower.

    A narrower terminal wraps the lines on it, so they take more rows than rich counts.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._width = console.width
        self._lines: list[list[Segment]] = []

    def draw(self, view: RenderableType, *, whole: bool = False) -> bool:
        """Replace the drawing, and return whether ``view`` is drawn.

        Args:
            view: The new drawing.
            whole: Refuse a view that is higher than the terminal.
        """
        width, height = self._console.size
        lines = self._console.render_lines(view, pad=False)
        if whole and len(lines) >= height:
            return False
        if width < self._width:
            self._erase_wrapped(width)
        self._width, self._lines = width, lines
        return True

    def _erase_wrapped(self, width: int) -> None:
        from rich.control import Control
        from rich.segment import ControlType, Segment

        rows = sum(max(1, math.ceil(Segment.get_line_length(line) / width)) for line in self._lines)
        up = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
        self._console.control(Control(*up * (rows - len(self._lines))))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the drawing."""
        from rich.segment import Segment

        for number, line in enumerate(self._lines):
            if number:
                yield Segment.line()
            yield from line
