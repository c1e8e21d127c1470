"""Names of backbones, without torch."""

from __future__ import annotations

from pathlib import Path

from glora_automl._files import user_path
from glora_automl.errors import TaskError

__all__ = ["PREFIX", "transformers_folder"]

PREFIX = "transformers:"
"""Begin of the names of such models: a repository of the hub, or a folder, follows."""


def transformers_folder(name: str) -> Path | None:
    """Return the local folder that a name of :data:`PREFIX` is; None for a repository."""
    if not name.startswith(PREFIX):
        return None
    path = user_path(name.removeprefix(PREFIX), "backbone.model", TaskError)
    return path if path.is_dir() else None
