"""``glora report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glora_automl.cli._options import Runs, Storage, StudyName
from glora_automl.cli._options import path as read_path
from glora_automl.cli._output import open_to_read

__all__ = ["report"]


def report(
    name: StudyName,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=read_path,
            help="HTML file of the page; by default NAME.html here.",
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            parser=read_path, help="Folder for the pictures, instead of the page; with --out, both."
        ),
    ] = None,
    storage: Storage = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write a study's tables and pictures into one HTML file, or its pictures into a folder."""
    from glora_automl.report import save_pictures, save_report
    from glora_automl.storages import quiet_optuna, storage_errors
    from glora_automl.study import load_study

    opened = open_to_read(storage, runs)
    with storage_errors(), quiet_optuna():
        study = load_study(opened, name)
        if png is not None:
            for path in save_pictures(study, png):
                typer.echo(f"Picture: {path}")
        if out is not None or png is None:
            path = out or Path(f"{name}.html")
            save_report(study, path)
            typer.echo(f"Report: {path}")
