"""``glora show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glora_automl.cli._options import AsJson, Runs, Storage, StudyName
from glora_automl.cli._output import open_to_read, print_classes, print_json, print_summary

__all__ = ["show"]


def show(
    name: StudyName,
    classes: Annotated[
        bool, typer.Option("--classes", help="Precision, recall and F1 of each class, confusions.")
    ] = False,
    storage: Storage = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show the settings, progress and result of a study."""
    from glora_automl.storages import storage_errors
    from glora_automl.study import load_study, summarize

    opened = open_to_read(storage, runs)
    with storage_errors():
        study = load_study(opened, name)
        summary = summarize(study)
        if as_json:
            print_json(summary)
        elif classes:
            print_classes(study)
        else:
            print_summary(study, summary)
