"""``glora suite``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from glora_automl.cli._options import (
    AsJson,
    Budget,
    Changes,
    Model,
    NTrials,
    given,
    integer,
    read_timeout,
    with_workspace,
)
from glora_automl.cli._output import is_main_process, out_console, print_json

__all__ = ["suite"]


@with_workspace(leave_out=("heartbeat",))
def suite(
    workspace: Any,
    name: Annotated[
        str, typer.Argument(help="Name of a suite, path of a .toml file, or folder of tasks.")
    ],
    model: Model = None,
    changes: Changes = None,
    n_seeds: Annotated[
        int, typer.Option(parser=integer, help="Studies per task, each with its own seed.")
    ] = 1,
    budget: Budget = None,
    n_trials: NTrials = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            help="Time until the last search ends, such as 8h, counted from now. The studies that "
            "are left share it equally."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run one recipe on many tasks; print and save the table of all of them."""
    from glora_automl.commands import run_suite
    from glora_automl.recipes import load_suite
    from glora_automl.report import save_suite, suite_table

    seconds = read_timeout(timeout)
    wanted = load_suite(name, data=workspace.data)
    result = run_suite(
        wanted,
        model=model,
        settings=changes or (),
        n_seeds=n_seeds,
        changes=given(budget=budget, search=given(n_trials=n_trials)),
        timeout=seconds,
        workspace=workspace,
    )
    if not is_main_process():
        return
    saved = save_suite(result, workspace.folder / f"suite-{wanted.name}")
    if as_json:
        print_json(result.to_json())
        return
    out_console().print(suite_table(result))
    for path in saved:
        typer.echo(f"Table: {path}")
