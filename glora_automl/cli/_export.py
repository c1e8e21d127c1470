"""``glora export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from glora_automl.cli._options import AsJson, StudyName, with_workspace
from glora_automl.cli._options import path as read_path
from glora_automl.cli._output import print_export, print_json

__all__ = ["export"]


@with_workspace(leave_out=("heartbeat", "track"))
def export(
    workspace: Any,
    name: StudyName,
    to: Annotated[
        str, typer.Option(help="timm, transformers, adapter, peft, onnx, pt2 or backbone.")
    ],
    out: Annotated[
        Path, typer.Option(parser=read_path, help="Folder to write, which must not exist.")
    ],
    trial: Annotated[
        str, typer.Option(help="best is the winner; or the number of a complete trial.")
    ] = "best",
    budget: Annotated[
        str | None, typer.Option(help="Export the selection for this budget instead.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Export the selection of this architecture instead.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an export.")] = False,
    preprocess: Annotated[
        bool,
        typer.Option(
            "--preprocess", help="A graph that takes uint8 images and returns probabilities."
        ),
    ] = False,
    push: Annotated[
        str | None, typer.Option(help="Upload it to OWNER/NAME on the Hugging Face hub.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository of --push private.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write an adapter of a study for timm, transformers, PEFT, ONNX Runtime or torch.export."""
    from glora_automl.export import export_model

    written = export_model(
        name,
        to,
        out,
        trial=trial,
        budget=budget,
        architecture=architecture,
        force=force,
        preprocess=preprocess,
        push=push,
        private=private,
        workspace=workspace,
    )
    if as_json:
        print_json(written.to_json())
    else:
        print_export(written)
