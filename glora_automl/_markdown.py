"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glora_automl._messages import printable

__all__ = ["markdown_table"]


def markdown_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; all columns but the first are right-aligned.

    Args:
        columns: Titles of the columns.
        lines: Cells by line. A ``|`` or a line break in a cell does not end it.

    Example:
        >>> print(markdown_table(["task", "accuracy"], [["day|night", "9.1"]]))
        | task | accuracy |
        | --- | ---: |
        | day\\|night | 9.1 |
    """
    rule = ["---", *["---:"] * (len(columns) - 1)]
    texts = [[printable(cell).replace("|", "\\|") for cell in line] for line in (columns, *lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (texts[0], rule, *texts[1:]))
