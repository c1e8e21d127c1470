"""``glora compare``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from glora_automl.cli._options import AsJson, StudyName, integer, with_workspace
from glora_automl.cli._output import is_main_process, print_comparison, print_json

__all__ = ["compare"]


@with_workspace(leave_out=("heartbeat", "track"))
def compare(
    workspace: Any,
    name: StudyName,
    n_architectures: Annotated[
        int | None,
        typer.Option(
            parser=integer,
            help="Random architectures for the rank correlation, which needs held-out images; by "
            "default 10 if there are any.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Add only this row to the study's, such as 'LoRA at equal cost'; repeatable."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a finished study with random truncations, presets and LoRA at equal cost."""
    from glora_automl import commands

    comparison = commands.compare(
        name, n_architectures=n_architectures, only=only, workspace=workspace
    )
    if not is_main_process():
        return
    if as_json:
        print_json({"study": name, **comparison.to_json()})
    else:
        print_comparison(comparison)
