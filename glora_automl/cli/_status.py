"""``glora status``."""

from __future__ import annotations

from pathlib import Path

from glora_automl.cli._options import AsJson, Runs, Storage
from glora_automl.cli._output import best_text, open_to_read, out_console, print_json

__all__ = ["status"]


def status(storage: Storage = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """List the studies of a storage and their progress."""
    from glora_automl.storages import storage_errors
    from glora_automl.study import list_studies

    opened = open_to_read(storage, runs)
    with storage_errors():
        summaries = list_studies(opened)
    if as_json:
        print_json(summaries)
        return
    from rich.table import Table

    table = Table("study", "stage", "trials", "budget", "best")
    for summary in summaries:
        if "trials" not in summary:
            table.add_row(summary["study"], summary["stage"])
            continue
        trials = summary["trials"]
        table.add_row(
            summary["study"],
            summary["stage"],
            f"{trials['complete'] + trials['pruned']}/{trials['target']}",
            f"{summary['budget']:,}",
            best_text(summary),
        )
    out_console().print(table)
