"""Ladder of smaller adapters as a table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from glora_automl.report._tables import TextTable, accuracy_text, plain_table
from glora_automl.study import Ladder

__all__ = ["LADDER_NOTE", "ladder_lines", "ladder_table"]

LADDER_NOTE = (
    "The bound (one-sided 95%, Tango) covers the sampling of the validation images, before the "
    "refit; not another training."
)


def ladder_lines(ladder: Ladder) -> TextTable:
    """Return the selected adapter and the smaller ones, with bounds in points of accuracy."""
    columns = "adapter", "parameters", "bytes", "validation", "loses at most"
    first = accuracy_text(ladder.validation)
    lines: list[tuple[str, ...]] = [
        (ladder.name, f"{ladder.n_params:,}", f"{ladder.n_bytes:,}", first, "–")
    ]
    for step in ladder.steps:
        mark = " (smallest)" if step == ladder.chosen else ""
        lines.append(
            (
                f"at most {step.budget:,}{mark}",
                f"{step.n_params:,}",
                f"{step.n_bytes:,}",
                accuracy_text(step.validation),
                f"{step.bound:.2f}",
            )
        )
    return TextTable(columns, lines)


def ladder_table(ladder: Ladder) -> Table:
    """Return the table for the terminal, with its notes."""
    title = f"Smaller adapters, margin {ladder.margin:g} points of accuracy"
    table = plain_table(title, *ladder_lines(ladder))
    table.caption = Text("\n".join([*ladder.notes(), LADDER_NOTE]), justify="left")
    return table
