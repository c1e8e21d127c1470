"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from scipy.stats import binomtest

from glora_automl.progress import shade
from glora_automl.report._picture import Grid, Picture
from glora_automl.study import RankCorrelation, Row
from glora_automl.training import Score

__all__ = [
    "RESULT_COLUMNS",
    "TextTable",
    "accuracy_interval",
    "accuracy_text",
    "correlation_text",
    "grid_blocks",
    "plain_table",
    "result_lines",
    "result_table",
]

RESULT_COLUMNS = ("adapter", "parameters", "validation", "test", "images", "seconds")


class TextTable(NamedTuple):
    """A table for people to read.

    Attributes:
        columns: Headings.
        lines: Texts under them.
    """

    columns: tuple[str, ...]
    lines: list[tuple[str, ...]]


def accuracy_interval(accuracy: float, images: int) -> tuple[float, float]:
    """The 95% confidence interval of an accuracy that was measured on so many images, as shares.

    It is Wilson's (Probable inference, the law of succession, and statistical inference, 1927): it
    tells how far another draw of as many images would move the figure, and nothing of the
    training's randomness.

    Example:
        >>> [round(end, 3) for end in accuracy_interval(0.72, 150)]
        [0.643, 0.786]
    """
    low, high = binomtest(round(accuracy * images), images).proportion_ci(method="wilson")
    return float(low), float(high)


def accuracy_text(score: Score | None) -> str:
    """Accuracy with its :func:`accuracy_interval`, in percent.

    Example:
        >>> accuracy_text(Score(accuracy=0.72, loss=1.0, n_images=150))
        '72.0 (64–79)'
    """
    if score is None:
        return "–"
    low, high = accuracy_interval(score.accuracy, score.n_images)
    return f"{100 * score.accuracy:.1f} ({100 * low:.0f}–{100 * high:.0f})"


def result_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The searched adapter beside the controls, as texts under :data:`RESULT_COLUMNS`.

    What was tested on several domains has a line each. Their mean is without the domain that was
    learnt.
    """
    lines: list[tuple[str, ...]] = []
    for row in rows:
        if row.n_params is None:
            lines.append((row.name, "none fits", "–", "–", "–", "–"))
            continue
        lines.append(
            (
                row.name,
                f"{row.n_params:,}",
                accuracy_text(row.validation),
                accuracy_text(row.test),
                f"{row.n_images:,}",
                f"{row.seconds:.1f}",
            )
        )
        for domain, score in row.domains.items():
            lines.append((f"  on {domain}", "", "", accuracy_text(score), "", ""))
        if row.domain_mean is not None:
            mean = f"{100 * row.domain_mean:.1f}"
            lines.append((f"  mean of {len(row.domains)} domains", "", "", mean, "", ""))
    return lines


def result_table(rows: Sequence[Row], budget: int) -> Table:
    """The searched adapter beside the controls."""
    title = f"Accuracy in % (95% interval) under a budget of {budget:,} trainable parameters"
    return plain_table(title, RESULT_COLUMNS, result_lines(rows))


def plain_table(title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    """A table with texts; all columns but the first are numbers."""
    table = Table(title=title)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    for line in lines:
        table.add_row(*line)
    return table


def grid_blocks(picture: Picture) -> RenderableType:
    """A picture's grid in blocks of colour; where there are no colours, its texts tell the same."""
    (grid,) = (mark for mark in picture.marks if isinstance(mark, Grid))
    width = max(6, *(len(text) for row in grid.texts for text in row))
    name = max(len(row) for row in grid.rows)
    lines = [Text(" " * name + " " + " ".join(column.center(width) for column in grid.columns))]
    for row, values, texts in zip(grid.rows, grid.values, grid.texts, strict=True):
        line = Text(f"{row:<{name}}")
        for value, text in zip(values, texts, strict=True):
            line.append(" ").append((text or "·").center(width), style=shade(value))
        lines.append(line)
    return Group(Text(picture.title, style="bold"), *lines)


def correlation_text(ranks: RankCorrelation) -> str:
    """What a comparison found of inherited and retrained accuracy.

    Example:
        >>> correlation_text(RankCorrelation(0.6, 0.2, 0.8, 0.03, ((0.1, 0.2),) * 9))
        ... # doctest: +NORMALIZE_WHITESPACE
        "Kendall's tau of inherited and retrained accuracy: 0.60 (95% interval 0.20 to 0.80,
        p = 0.03) on 9 random architectures"
    """
    count = len(ranks.pairs)
    what = "Kendall's tau of inherited and retrained accuracy"
    if ranks.tau is None:
        return f"{what}: none, one of them is the same for all {count} random architectures"
    return (
        f"{what}: {ranks.tau:.2f} (95% interval {ranks.low:.2f} to {ranks.high:.2f}, p = "
        f"{ranks.pvalue:.2g}) on {count} random architectures"
    )
