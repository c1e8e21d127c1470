"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from glora_automl.study import Row
from glora_automl.supernet import Score

__all__ = ["accuracy_text", "result_table"]


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


def result_table(rows: Sequence[Row], budget: int) -> Table:
    """The searched adapter beside the controls."""
    table = Table(title=f"Accuracy in % under a budget of {budget:,} trainable parameters")
    table.add_column("adapter")
    for column in ("parameters", "validation", "test", "images", "seconds"):
        table.add_column(column, justify="right")
    for row in rows:
        if row.parameters is None:
            table.add_row(row.name, "none fits", "–", "–", "–", "–")
            continue
        table.add_row(
            row.name,
            f"{row.parameters:,}",
            accuracy_text(row.validation),
            accuracy_text(row.test),
            f"{row.images:,}",
            f"{row.seconds:.1f}",
        )
    return table
