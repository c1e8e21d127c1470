"""``glora architecture``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glora_automl.cli._options import AsJson, Runs, Storage, StudyName
from glora_automl.cli._output import open_to_read, print_json

__all__ = ["architecture"]


def architecture(
    name: StudyName,
    trial: Annotated[str, typer.Option(help="best (the winner, once selected) or a number.")] = (
        "best"
    ),
    storage: Storage = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Print the architecture of a study's winner or trial, for 'glora train --architecture'."""
    from glora_automl.storages import storage_errors
    from glora_automl.study import find_architecture, load_study, parse_trial, read_space

    wanted = parse_trial(trial)
    opened = open_to_read(storage, runs)
    with storage_errors():
        study = load_study(opened, name)
        number, found = find_architecture(study, wanted)
        n_params = found.count(read_space(study).shapes)
    if as_json:
        print_json(
            {"study": name, "trial": number, "n_params": n_params, "architecture": str(found)}
        )
    else:
        typer.echo(str(found))
