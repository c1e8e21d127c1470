"""All the places that images can come from."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._digits import DigitsSettings, load_digits
from glora_automl.tasks._domains import DomainsSettings, load_domains
from glora_automl.tasks._folder import FolderSettings, load_folder
from glora_automl.tasks._images import Task
from glora_automl.tasks._memory import ArraysSettings, load_arrays
from glora_automl.tasks._npz import NpzSettings, load_npz
from glora_automl.tasks._timm import TimmSettings, load_timm
from glora_automl.tasks._torchvision import TorchvisionSettings, load_torchvision
from glora_automl.tasks._vtab import VtabSettings, load_vtab

__all__ = ["TaskSettings", "load_task"]

TaskSettings = Annotated[
    DigitsSettings
    | NpzSettings
    | FolderSettings
    | TorchvisionSettings
    | TimmSettings
    | VtabSettings
    | DomainsSettings
    | ArraysSettings,
    Field(discriminator="source"),
]
"""Settings of a task; ``source`` says of which kind."""


def load_task(
    settings: TaskSettings,
    seed: int,
    progress: Progress | None = None,
    *,
    arrays: tuple[np.ndarray, np.ndarray] | None = None,
) -> Task:
    """Load a task, whatever its source.

    Args:
        settings: Where its images come from.
        seed: Decides which images are fitted, validated and tested on, where that is drawn.
        progress: Shows the reading of image files.
        arrays: Images and labels, where they are given so; see :func:`load_arrays`.

    Raises:
        TaskError: If the images cannot be had.
    """
    if arrays is not None and not isinstance(settings, ArraysSettings):
        raise TaskError(
            f"task.source must be 'arrays' where arrays are given, got {settings.source!r}; leave "
            "one of them out."
        )
    match settings:
        case DigitsSettings():
            return load_digits(settings, seed)
        case NpzSettings():
            return load_npz(settings, seed, progress)
        case FolderSettings():
            return load_folder(settings, seed, progress)
        case TorchvisionSettings():
            return load_torchvision(settings, seed, progress)
        case TimmSettings():
            return load_timm(settings, seed, progress)
        case VtabSettings():
            return load_vtab(settings, progress)
        case DomainsSettings():
            return load_domains(settings, seed, progress)
        case ArraysSettings():
            return load_arrays(settings, seed, arrays)
