"""Terminal display of a stage: a line, or a panel for a search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from glora_automl.progress._blocks import shade, sparkline
from glora_automl.progress._pace import Pace
from glora_automl.progress._state import ParameterGrid, SearchState

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

__all__ = ["WIDTH", "StageLine", "StagePanel"]

WIDTH = 84
"""Maximum width of a panel; a narrow panel stays intact when the terminal shrinks."""

_MIN_BAR = 8
_GAP = 2
_LABEL = 11
"""Width of the labels on the left of a panel, with the space after them."""


class StageLine:
    """Line with progress bar, count, rate, best result and remaining time.

    Args:
        title: Title of the stage.
        pace: Steps of the stage.
        note: Best result so far.
        end: Whether the stage has ended.
    """

    def __init__(self, title: str, pace: Pace, note: str = "", *, end: bool = False) -> None:
        self._title = title
        self._pace = pace
        self._note = note
        self._end = end

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the line; a narrow terminal omits rate, note and time, in this order."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        pace, width = self._pace, options.max_width
        title = f"{self._title:<22}" if self._title and width >= 100 else self._title
        cells = {
            "title": title,
            "count": pace.count_text,
            "rate": pace.rate_text,
            "note": self._note,
            "time": pace.time_text(end=self._end),
        }
        cells = {key: text for key, text in cells.items() if text}
        for name in ("rate", "note", "time"):
            if sum(len(text) + _GAP for text in cells.values()) + _MIN_BAR > width:
                cells.pop(name, None)
        left = width - sum(len(text) + _GAP for text in cells.values())
        row: list[RenderableType] = [Text(text, no_wrap=True) for text in cells.values()]
        if left >= _MIN_BAR:
            bar = ProgressBar(total=max(pace.total, 1), completed=pace.done, width=min(left, 40))
            row.insert("title" in cells, bar)
        line = Table.grid(padding=(0, _GAP, 0, 0))
        line.add_row(*row)
        yield line


class StagePanel:
    """Panel of a search.

    Args:
        title: Title of the stage.
        pace: Steps of the stage.
        state: State of the search.
        end: Whether the stage has ended.
    """

    def __init__(self, title: str, pace: Pace, state: SearchState, *, end: bool = False) -> None:
        self._title = title
        self._pace = pace
        self._state = state
        self._end = end

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the panel; a narrow terminal omits details."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        width = min(options.max_width, WIDTH)
        inside = width - 4
        bar = StageLine("", self._pace, end=self._end)
        body = Group(bar, self._facts(inside - _LABEL, options), *self._grid(inside, options))
        title = Text(self._title, style="bold", no_wrap=True, overflow="ellipsis")
        yield Panel(body, title=title, title_align="left", width=width, border_style="dim")

    def _facts(self, room: int, options: ConsoleOptions) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        state = self._state
        rows = Table.grid()
        rows.add_column(width=_LABEL, style="dim")
        rows.add_column(width=max(1, room), no_wrap=True, overflow="ellipsis")
        best = Text(state.best_text, style="bold")
        best.append(state.size_text, style="not bold")
        rows.add_row("best", best)
        if state.budget and state.n_params is not None:
            text = f"{state.n_params / state.budget:.0%} of {state.budget:,}"
            bar = ProgressBar(
                total=state.budget,
                completed=state.n_params,
                width=max(1, min(40, room - len(text) - 1)),
                complete_style="#2171b5",
                finished_style="#2171b5",
            )
            line = Table.grid(padding=(0, 1, 0, 0))
            line.add_row(bar, text)
            rows.add_row("budget", line)
        if state.recent:
            rows.add_row("recent", self._recent(room, ascii_only=options.ascii_only))
        rows.add_row("status", self._status(room))
        return rows

    def _recent(self, room: int, *, ascii_only: bool) -> Text:
        """Return a sparkline of the latest values that fit, and their range."""
        from rich.text import Text

        state = self._state
        longest = 2 * max(len(state.text(value)) for value in state.recent) + len("  to ")
        shown = state.recent[-max(1, min(40, room - longest)) :]
        span = f"{state.text(min(shown))} to {state.text(max(shown))}"
        if ascii_only:
            return Text(span)
        return Text.assemble((sparkline(shown), "#2171b5"), f" {span}")

    def _status(self, room: int) -> str:
        state = self._state
        parts = [f"{state.workers} worker{'s' * (state.workers != 1)}"]
        if state.generation is not None:
            parts.insert(0, "generation {} of {}".format(*state.generation))
        if state.running:
            parts.append(f"{state.running} trial{'s' * (state.running != 1)} on other workers")
        while len(parts) > 1 and len(", ".join(parts)) > room:
            parts.pop()
        return ", ".join(parts)

    def _grid(self, inside: int, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the lines of the parameter grid in percent; many blocks share columns."""
        from rich.text import Text

        grid = self._state.grid
        total = 0 if grid is None else sum(map(sum, grid.counts))
        if grid is None or not total:
            return
        parts, labels = _columns(grid, inside - _LABEL)
        if not parts:
            return
        cell = max(3, *map(len, labels))
        yield Text(
            "% by block".ljust(_LABEL) + " ".join(label.center(cell) for label in labels),
            style="dim",
            no_wrap=True,
        )
        for name, counts in zip(grid.rows, grid.counts, strict=True):
            line = Text(f"{name:>{_LABEL - 2}} ", no_wrap=True)
            for part in parts:
                count = sum(counts[part])
                text = _percent(count, total) or ("." if options.ascii_only else "·")
                line.append(" ").append(text.center(cell), style=shade(count))
            yield line


def _columns(grid: ParameterGrid, room: int) -> tuple[list[slice], list[str]]:
    """Return slices of neighbouring columns that fit into the room, and their labels."""
    names = [_short(name) for name in grid.columns]
    for size in range(1, len(names) + 1):
        parts = [slice(start, start + size) for start in range(0, len(names), size)]
        labels = [_span(names[part]) for part in parts]
        if len(parts) * (max(3, *map(len, labels)) + 1) <= room:
            return parts, labels
    return [], []


def _percent(count: int, total: int) -> str:
    percent = 100 * count / total
    return "" if not count else "<1" if percent < 0.5 else f"{percent:.0f}"


def _short(block: str) -> str:
    """Return the numbers in a block's name, or the end of a name without numbers."""
    return ".".join(filter(str.isdigit, block.split("."))) or block.rpartition(".")[2][:5]


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}"
