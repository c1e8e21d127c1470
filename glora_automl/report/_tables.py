"""Tables of adapters, as texts and for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from glora_automl._messages import printable
from glora_automl.progress import shade
from glora_automl.report._picture import Grid, Picture
from glora_automl.study import RankCorrelation, Row
from glora_automl.training import Score, metric_value

__all__ = [
    "TextTable",
    "accuracy_interval",
    "accuracy_text",
    "correlation_text",
    "grid_blocks",
    "metric_title",
    "plain_table",
    "result_table",
    "result_texts",
    "selected_first",
]


class TextTable(NamedTuple):
    """Table of formatted texts.

    Attributes:
        columns: Column headers.
        lines: Texts by line and column.
    """

    columns: tuple[str, ...]
    lines: list[tuple[str, ...]]


def accuracy_interval(accuracy: float, n_images: int) -> tuple[float, float]:
    """Return the 95% confidence interval of an accuracy on ``n_images`` images, as fractions.

    The interval is Wilson's (Probable inference, the law of succession, and statistical inference,
    1927). It covers the sampling of the images, not the randomness of the training.

    Example:
        >>> [round(end, 3) for end in accuracy_interval(0.72, 150)]
        [0.643, 0.786]
    """
    from scipy.stats import binomtest

    low, high = binomtest(round(accuracy * n_images), n_images).proportion_ci(method="wilson")
    return float(low), float(high)


def accuracy_text(score: Score | None) -> str:
    """Format an accuracy and its :func:`accuracy_interval`, in percent.

    Example:
        >>> accuracy_text(Score(accuracy=0.72, loss=1.0, n_images=150))
        '72.0 (64–79)'
    """
    if score is None:
        return "–"
    low, high = accuracy_interval(score.accuracy, score.n_images)
    return f"{100 * score.accuracy:.1f} ({100 * low:.0f}–{100 * high:.0f})"


def metric_title(metric: str) -> str:
    """Return the name of a metric for people.

    Example:
        >>> metric_title("balanced_accuracy"), metric_title("macro_f1"), metric_title("auroc")
        ('balanced accuracy', 'macro F1', 'AUROC')
    """
    return metric.replace("_", " ").replace("f1", "F1").replace("auroc", "AUROC")


def selected_first(rows: Sequence[Row], preset: str | None) -> list[Row]:
    """Return the rows with the selected baseline first, named as such; None changes nothing.

    Example:
        >>> [row.name for row in selected_first([Row("searched"), Row("BitFit")], "BitFit")]
        ['selected: BitFit', 'searched']
    """
    if preset is None or len(rows) < 2:
        return list(rows)
    chosen = [replace(row, name=f"selected: {preset}") for row in rows if row.name == preset]
    return [*chosen, *(row for row in rows if row.name != preset)]


def result_texts(
    rows: Sequence[Row], metric: str = "accuracy", preset: str | None = None
) -> TextTable:
    """Return the trained adapters with their accuracies.

    Without any validation score there is no column of them. Another metric than the accuracy has a
    line below that of the adapter, and so has each further test domain. The mean of the domains
    excludes that of the training images.

    Args:
        rows: The adapters.
        metric: The recipe's metric.
        preset: The baseline that was selected instead of the searched adapter.
    """
    rows = selected_first(rows, preset)
    title, lines = metric_title(metric), list[tuple[str, ...]]()

    def add_metric(name: str, validation: Score | None, test: Score | None) -> None:
        if metric != "accuracy":
            scores = [None if score is None else score.custom for score in (validation, test)]
            texts = [metric_value(metric, value) for value in scores]
            lines.append((name, "", *texts, "", ""))

    for row in rows:
        name = printable(row.name)
        if row.n_params is None:
            lines.append((name, "none fits", "–", "–", "–", "–"))
            continue
        lines.append(
            (
                name,
                f"{row.n_params:,}",
                accuracy_text(row.validation),
                accuracy_text(row.test),
                f"{row.n_images:,}",
                f"{row.seconds:.1f}",
            )
        )
        add_metric(f"  {title}", row.validation, row.test)
        for domain, score in row.domains.items():
            domain = printable(domain)
            lines.append((f"  on {domain}", "", "", accuracy_text(score), "", ""))
            add_metric(f"  {title} on {domain}", None, score)
        if row.domain_mean is not None:
            mean = f"{100 * row.domain_mean:.1f}"
            lines.append((f"  mean of {len(row.domains)} domains", "", "", mean, "", ""))
    columns = "adapter", "parameters", "validation", "test", "images", "seconds"
    if rows and all(row.validation is None for row in rows):  # no images were held out
        return TextTable(columns[:2] + columns[3:], [line[:2] + line[3:] for line in lines])
    return TextTable(columns, lines)


def result_table(
    rows: Sequence[Row],
    budget: int,
    notes: Sequence[str] = (),
    metric: str = "accuracy",
    preset: str | None = None,
) -> Table:
    """Return the table of the trained adapters.

    Args:
        rows: The adapters.
        budget: The most trainable parameters.
        notes: Lines below the table, as in :meth:`DataSummary.captions`.
        metric: The recipe's metric.
        preset: As for :func:`result_texts`.
    """
    title = f"Accuracy in % (95% interval) under a budget of {budget:,} trainable parameters"
    table = plain_table(title, *result_texts(rows, metric, preset))
    if notes:
        table.caption = Text("\n".join(notes), justify="left")
    return table


def plain_table(title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    """Return a table for the terminal; all columns but the first are right-aligned."""
    table = Table(title=title)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    for line in lines:
        table.add_row(*line)
    return table


def grid_blocks(picture: Picture) -> RenderableType:
    """Return a picture's grid as coloured blocks, whose texts are readable without colours."""
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


def correlation_text(correlation: RankCorrelation) -> str:
    """Describe the rank correlation of inherited and trained accuracy.

    Example:
        >>> correlation_text(RankCorrelation(0.6, 0.2, 0.8, ((0.1, 0.2),) * 9))
        ... # doctest: +NORMALIZE_WHITESPACE
        'Spearman correlation of inherited and trained accuracy: 0.60 (95% interval 0.20 to 0.80)
        on 9 architectures'
    """
    name = "Spearman correlation of inherited and trained accuracy"
    count = len(correlation.pairs)
    if correlation.rho is None:
        return f"{name}: undefined, an accuracy is the same for all {count} architectures"
    interval = ""
    if correlation.low is not None:
        interval = f" (95% interval {correlation.low:.2f} to {correlation.high:.2f})"
    return f"{name}: {correlation.rho:.2f}{interval} on {count} architectures"
