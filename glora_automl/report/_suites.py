"""Table of a suite, for the terminal and as files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from operator import methodcaller
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from glora_automl._files import write_atomic
from glora_automl._markdown import markdown_table
from glora_automl._messages import printable

if TYPE_CHECKING:
    from glora_automl.commands import SuiteResult

__all__ = ["save_suite", "suite_table"]


def suite_table(result: SuiteResult) -> Table:
    """Return the table of test accuracies, with the mean of each group and of all groups."""
    methods = result.methods()
    table = Table(title=_title(result), caption=Text("\n".join(_remarks(result))) or None)
    table.add_column("task")
    for method in methods:
        table.add_column(method, justify="right")
    for name, cells, is_mean in _lines(result, methods):
        table.add_row(name, *cells, style="bold" if is_mean else None, end_section=is_mean)
    return table


def save_suite(result: SuiteResult, stem: Path) -> list[Path]:
    """Write the table as Markdown and its figures as JSON.

    Args:
        result: Result of the suite.
        stem: Path of the files without their suffix.

    Returns:
        The paths of the two files.

    Raises:
        StorageError: If a file cannot be written.
    """
    methods = result.methods()
    lines = [[name.strip(), *cells] for name, cells, _ in _lines(result, methods)]
    parts = [f"{_title(result)}.", markdown_table(["task", *methods], lines)]
    if remarks := _remarks(result):
        parts.append("\n".join(f"- {line}" for line in remarks))
    text = "\n\n".join(parts) + "\n"
    document = json.dumps(result.to_json(), indent=1, ensure_ascii=False)
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".md", ".json")]
    for path, content in zip(paths, (text, document), strict=True):
        write_atomic(path, methodcaller("write_text", content, encoding="utf-8"))
    return paths


def _title(result: SuiteResult) -> str:
    finished = sum(map(len, result.rows.values()))
    target = result.n_seeds * len(result.suite.tasks)
    studies = "1 study" if result.n_seeds == 1 else f"{result.n_seeds} studies"
    title = f"Test accuracy in % on {result.suite.name}, {studies} per task"
    if result.n_seeds > 1:
        title += " (mean and 95% interval)"
    if finished < target:
        title += f"; {finished} of {target} studies are finished"
    return title


def _remarks(result: SuiteResult) -> list[str]:
    majority = ", ".join(
        f"{task} {100 * fmean(found):.1f}" for task, found in result.majorities.items()
    )
    notes = [f"{task}: {note}" for task, notes in result.notes.items() for note in notes]
    if majority:
        notes.insert(0, f"Majority class, accuracy in % on test images: {majority}.")
    return [*notes, *(f"{entry.method}: {entry.source}" for entry in result.suite.published)]


def _lines(result: SuiteResult, methods: Sequence[str]) -> Iterator[tuple[str, list[str], bool]]:
    """Yield the lines: name, one cell per method, and whether the line is a mean."""
    groups = result.groups()
    for group, tasks in groups.items():
        for task in tasks:
            domains = result.domains(task)
            for domain in domains:
                cells = [_cell(result.accuracies(task, method, domain)) for method in methods]
                yield f"  {task} on {printable(domain)}", cells, False
            yield task, [_cell(result.accuracies(task, method)) for method in methods], False
        if group and len(groups) > 1:
            yield (
                f"mean of {group}",
                [_mean(result.group_mean(group, method)) for method in methods],
                True,
            )
    name = "mean of the groups" if len(groups) > 1 else "mean"
    yield name, [_mean(result.mean(method)) for method in methods], True


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = f"{100 * fmean(values):.1f}"
    if len(values) == 1:
        return mean
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {100 * half:.1f}"


def _mean(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
