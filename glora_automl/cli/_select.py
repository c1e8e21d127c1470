"""``glora select``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from glora_automl.cli._options import AsJson, Margin, StudyName, with_workspace
from glora_automl.cli._output import is_main_process, out_console, print_found, print_json

__all__ = ["select"]


@with_workspace(leave_out=("heartbeat", "track"))
def select(
    workspace: Any,
    name: StudyName,
    budget: Annotated[
        str | None, typer.Option(help="Trainable parameters, at most the study's.")
    ] = None,
    margin: Margin = None,
    architecture: Annotated[
        str | None, typer.Option(help="File of an architecture that was found elsewhere.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """End a running search with what is done, or select by budget, margin or architecture."""
    from glora_automl import commands
    from glora_automl.report import ladder_table, result_table
    from glora_automl.study import read_recipe

    result = commands.select(
        name, budget, margin=margin, architecture=architecture, workspace=workspace
    )
    if budget is None and margin is None and architecture is None:
        print_found(result, workspace, as_json)
        return
    if not is_main_process():
        return
    metric = read_recipe(result.study).metric
    if as_json:
        print_json(
            {
                "study": name,
                "budget": result.budget,
                "metric": metric,
                "selection": result.selection.to_json(),
                "row": result.rows[0].to_json(),
                "ladder": None if result.ladder is None else result.ladder.to_json(),
            }
        )
        return
    lines = result.data.captions()
    out_console().print(result_table(result.rows, result.budget, lines, metric))
    if result.ladder is not None:
        out_console().print(ladder_table(result.ladder))
    winner = f"{result.file}.json"
    typer.echo(f"Winner: {workspace.folder / name / winner}")
