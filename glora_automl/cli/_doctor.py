"""``glora doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glora_automl.cli._options import AsJson, Runs, Storage, number
from glora_automl.cli._output import print_json

__all__ = ["doctor"]


def doctor(
    storage: Storage = None,
    artifacts: Annotated[
        str | None,
        typer.Option(
            envvar="GLORA_ARTIFACTS", help="Folder or s3://bucket/prefix; by default in --runs."
        ),
    ] = None,
    runs: Runs = Path("runs"),
    timeout: Annotated[float, typer.Option(parser=number, help="Seconds to wait.")] = 20.0,
    as_json: AsJson = False,
) -> None:
    """Check packages, devices, disk, storage, artifact store and hub."""
    from glora_automl._messages import printable, redact
    from glora_automl.cli._flags import Flags, with_flags
    from glora_automl.diagnosis import diagnose

    if not 0.1 <= timeout <= 600:
        raise typer.BadParameter(
            f"must be from 0.1 to 600 seconds, got {timeout:g}", param_hint="'--timeout'"
        )
    checks = diagnose(runs, storage=storage, artifacts=artifacts, timeout=timeout)
    flags = Flags({name: f"--{name}" for name in ("storage", "artifacts", "runs", "model")})
    healthy = all(check.state != "fail" for check in checks)
    if as_json:
        print_json({"healthy": healthy, "checks": [check.to_json() for check in checks]})
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            value = with_flags(printable(redact(check.value)), flags)
            typer.echo(f"{check.state:<4}  {check.name:<{width}}  {value}")
            if check.hint:
                typer.echo(f"{'':<{width + 8}}{with_flags(check.hint, flags)}")
    if not healthy:
        raise typer.Exit(1)
