"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from glora_automl.report._picture import Grid, Picture
from glora_automl.study import Row
from glora_automl.supernet import Score

__all__ = [
    "RESULT_COLUMNS",
    "accuracy_text",
    "grid_blocks",
    "plain_table",
    "result_lines",
    "result_table",
]

RESULT_COLUMNS = ("adapter", "parameters", "validation", "test", "images", "seconds")


def accuracy_text(score: Score | None) -> str:
    """Accuracy with its standard error, in percent.

    The standard error is that of a share, ``sqrt(p (1 - p) / n)``: it tells how far another draw
    of as many images would move the figure, and nothing of the training's randomness.

    Example:
        >>> accuracy_text(Score(accuracy=0.72, loss=1.0, images=150))
        '72.0 ± 3.7'
    """
    if score is None:
        return "–"
    error = math.sqrt(score.accuracy * (1 - score.accuracy) / score.images)
    return f"{score.accuracy:.1%} ± {error:.1%}".replace("%", "")


def result_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The searched adapter beside the controls, as texts under :data:`RESULT_COLUMNS`."""
    return [
        (row.name, "none fits", "–", "–", "–", "–")
        if row.parameters is None
        else (
            row.name,
            f"{row.parameters:,}",
            accuracy_text(row.validation),
            accuracy_text(row.test),
            f"{row.images:,}",
            f"{row.seconds:.1f}",
        )
        for row in rows
    ]


def result_table(rows: Sequence[Row], budget: int) -> Table:
    """The searched adapter beside the controls."""
    title = f"Accuracy in % under a budget of {budget:,} trainable parameters"
    return plain_table(title, RESULT_COLUMNS, result_lines(rows))


def plain_table(title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    """A table with texts; all columns but the first are numbers."""
    table = Table(title=title)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    for line in lines:
        table.add_row(*line)
    return table


_SHADES = ("#deebf7", "#9ecae1", "#6baed6", "#2171b5", "#08306b")
"""From one parameter on, from ten, a hundred, a thousand, and ten thousand."""


def grid_blocks(picture: Picture) -> RenderableType:
    """A picture's grid in blocks of colour; where there are no colours, its texts tell the same."""
    (grid,) = (mark for mark in picture.marks if isinstance(mark, Grid))
    width = max(6, *(len(text) for row in grid.texts for text in row))
    name = max(len(row) for row in grid.rows)
    lines = [Text(" " * name + " " + " ".join(column.center(width) for column in grid.columns))]
    for row, values, texts in zip(grid.rows, grid.values, grid.texts, strict=True):
        line = Text(f"{row:<{name}}")
        for value, text in zip(values, texts, strict=True):
            shade = min(len(str(value)), len(_SHADES)) - 1
            color = "#ffffff" if shade >= 3 else "#000000"
            style = f"{color} on {_SHADES[shade]}" if value else "dim"
            line.append(" ").append((text or "·").center(width), style=style)
        lines.append(line)
    return Group(Text(picture.title, style="bold"), *lines)
