"""``glora dashboard``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glora_automl._signals import raise_on_interrupt
from glora_automl.cli._options import Runs, Storage, integer
from glora_automl.cli._output import READ_PATIENCE, storage_url

__all__ = ["dashboard"]


def dashboard(
    storage: Storage = None,
    artifacts: Annotated[
        str | None,
        typer.Option(
            envvar="GLORA_ARTIFACTS", help="Folder or s3://bucket/prefix of the studies' files."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(parser=integer, help="Port to listen at; 0 takes a free one.")
    ] = 8080,
    by: Annotated[
        str, typer.Option(help="Count parameters by block, kind of layer, tensor or layer.")
    ] = "block",
    write: Annotated[
        bool, typer.Option("--write", help="Let notes and artifacts be added.")
    ] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Show the studies of a storage in optuna-dashboard, with parameters counted by block."""
    from glora_automl.report import check_grouping, dashboard_app, open_server
    from glora_automl.storages import open_artifacts, open_storage, quiet_optuna

    grouping = check_grouping(by)
    url = storage_url(storage, runs)
    # A scheduler may start the dashboard before the first worker. A missing file is a mistake.
    create = "://" in url and not url.startswith("sqlite")
    opened = open_storage(url, create=create, write=write, patience=READ_PATIENCE)
    shown = dashboard_app(
        opened,
        by=grouping,
        artifacts=lambda location: open_artifacts(location, cache=runs / "downloads", create=False),
        location=artifacts,
        write=write,
        hosts=(host,),
    )
    with open_server(shown, host, port) as server, quiet_optuna():
        typer.echo(f"Dashboard: {server.url} (Ctrl-C ends it)")
        if not server.is_local:
            may = "read and annotate" if write else "read"
            typer.echo(f"Every client that reaches this address can {may} the studies.", err=True)
        raise_on_interrupt()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("")
