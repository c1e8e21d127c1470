"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ArtifactStore",
    "AsJson",
    "Budget",
    "Changes",
    "Data",
    "Device",
    "Model",
    "Patience",
    "Quiet",
    "Runs",
    "Storage",
    "Trials",
]

Storage = Annotated[
    str | None,
    typer.Option(
        help="URL of a database, or path of a journal file (.log); by default SQLite in the runs "
        "folder."
    ),
]
ArtifactStore = Annotated[
    str | None,
    typer.Option(
        "--artifacts",
        help="Folder or s3://bucket/prefix for supernet and winner; by default the study's, or in "
        "the runs folder.",
    ),
]
Model = Annotated[
    str | None, typer.Option(help="A timm model, adapted from its pretrained weights.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting of the recipe, such as task.shots=4; repeatable."),
]
Budget = Annotated[str | None, typer.Option(help="Trainable parameters: 12000, 12k, 0.3M or 1%.")]
Runs = Annotated[Path, typer.Option(help="Folder for database, artifacts and checkpoints.")]
Trials = Annotated[int | None, typer.Option(help="Complete trials to reach, of all workers.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
Patience = Annotated[
    float, typer.Option(help="Seconds to wait for a database that does not answer any more.")
]
Data = Annotated[
    str | None, typer.Option(help="Your images: a folder with a folder for each class, or .npz.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
