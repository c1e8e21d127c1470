"""``glora predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glora_automl.cli._options import AsJson, Device, Quiet, integer
from glora_automl.cli._options import path as read_path
from glora_automl.cli._output import print_json, print_predictions, start_progress
from glora_automl.errors import ExportError

__all__ = ["predict"]


def predict(
    path: Annotated[Path, typer.Argument(parser=read_path, help="Folder that glora export wrote.")],
    images: Annotated[list[str], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(parser=integer, help="Most likely classes per image.")] = 1,
    backbone: Annotated[
        str | None,
        typer.Option(help="Weights of an adapter's backbone: a file, or an export --to backbone."),
    ] = None,
    batch_size: Annotated[int, typer.Option(parser=integer, help="Images per forward pass.")] = 64,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Classify images with an exported model."""
    progress = start_progress(quiet)
    from glora_automl import export

    found = export.predict(
        path,
        images,
        top=top,
        backbone=backbone,
        device=device,
        batch_size=batch_size,
        progress=progress,
    )
    if as_json:
        print_json(found.to_json())
    else:
        print_predictions(found)
    if found.unreadable:
        shown = [f"{file} ({why})" for file, why in found.unreadable.items()]
        more = ", ..." if len(shown) > 3 else ""
        raise ExportError(
            f"{len(shown)} of {len(shown) + len(found.files)} images cannot be decoded: "
            f"{', '.join(shown[:3])}{more}. The others are classified."
        )
