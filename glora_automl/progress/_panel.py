"""What a terminal shows of a stage: a line, or for a search a panel."""

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
"""Most columns of a panel: one that does not fill its terminal stays whole when that shrinks."""

_LEAST_BAR = 8
_GAP = 2
_LABEL = 11
"""Columns of the labels on the left of a panel, with the space after them."""


class StageLine:
    """A bar with what is done, the rate, what is best so far, and the time left.

    Args:
        title: The stage.
        pace: How far it is.
        note: What is best so far.
        end: Whether the stage is over.
    """

    def __init__(self, title: str, pace: Pace, note: str = "", *, end: bool = False) -> None:
        self._title = title
        self._pace = pace
        self._note = note
        self._end = end

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Leaves out the least important where the terminal is too narrow for all."""
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
        cells = {name: text for name, text in cells.items() if text}
        for least in ("rate", "note", "time"):
            if sum(len(text) + _GAP for text in cells.values()) + _LEAST_BAR > width:
                cells.pop(least, None)
        left = width - sum(len(text) + _GAP for text in cells.values())
        row: list[RenderableType] = [Text(text, no_wrap=True) for text in cells.values()]
        if left >= _LEAST_BAR:
            bar = ProgressBar(total=max(pace.total, 1), completed=pace.done, width=min(left, 40))
            row.insert("title" in cells, bar)
        line = Table.grid(padding=(0, _GAP, 0, 0))
        line.add_row(*row)
        yield line


class StagePanel:
    """The panel of a search.

    Args:
        title: The stage.
        pace: How far it is.
        state: How the search stands.
        end: Whether the stage is over.
    """

    def __init__(self, title: str, pace: Pace, state: SearchState, *, end: bool = False) -> None:
        self._title = title
        self._pace = pace
        self._state = state
        self._end = end

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Leaves out what a narrow terminal has no room for."""
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
            told = f"{state.n_params / state.budget:.0%} of {state.budget:,}"
            bar = ProgressBar(
                total=state.budget,
                completed=state.n_params,
                width=max(1, min(40, room - len(told) - 1)),
                complete_style="#2171b5",
                finished_style="#2171b5",
            )
            line = Table.grid(padding=(0, 1, 0, 0))
            line.add_row(bar, told)
            rows.add_row("budget", line)
        if state.recent:
            rows.add_row("recent", self._recent(room, ascii_only=options.ascii_only))
        rows.add_row("at work", self._at_work(room))
        return rows

    def _recent(self, room: int, *, ascii_only: bool) -> Text:
        """The latest values, as many as there is room for, and their range."""
        from rich.text import Text

        state = self._state
        longest = 2 * max(len(state.text(value)) for value in state.recent) + len("  to ")
        shown = state.recent[-max(1, min(40, room - longest)) :]
        told = f"{state.text(min(shown))} to {state.text(max(shown))}"
        if ascii_only:
            return Text(told)
        return Text.assemble((sparkline(shown), "#2171b5"), f" {told}")

    def _at_work(self, room: int) -> str:
        state = self._state
        parts = [f"{state.workers} worker{'s' * (state.workers != 1)}"]
        if state.generation is not None:
            parts.insert(0, "generation {} of {}".format(*state.generation))
        if state.running:
            parts.append(f"{state.running} trial{'s' * (state.running != 1)} at others")
        while len(parts) > 1 and len(", ".join(parts)) > room:
            parts.pop()
        return ", ".join(parts)

    def _grid(self, inside: int, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Where the parameters of the best are, in percent; neighbours together if need be."""
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
                share = _percent(count, total) or ("." if options.ascii_only else "·")
                line.append(" ").append(share.center(cell), style=shade(count))
            yield line


def _columns(grid: ParameterGrid, room: int) -> tuple[list[slice], list[str]]:
    """Which columns are shown as one, so that all fit into the room, and what they are called."""
    names = [_short(name) for name in grid.columns]
    for size in range(1, len(names) + 1):
        parts = [slice(start, start + size) for start in range(0, len(names), size)]
        labels = [_span(names[part]) for part in parts]
        if len(parts) * (max(3, *map(len, labels)) + 1) <= room:
            return parts, labels
    return [], []


def _percent(count: int, total: int) -> str:
    share = 100 * count / total
    return "" if not count else "<1" if share < 0.5 else f"{share:.0f}"


def _short(block: str) -> str:
    """The numbers of a block, or the end of its name if it has none."""
    return ".".join(filter(str.isdigit, block.split("."))) or block.rpartition(".")[2][:5]


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}"
