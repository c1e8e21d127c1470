"""All sources of images."""

from __future__ import annotations

import numpy as np

from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._arrays import load_arrays
from glora_automl.tasks._csv import load_csv
from glora_automl.tasks._digits import load_digits
from glora_automl.tasks._domains import load_domains
from glora_automl.tasks._folder import load_folder
from glora_automl.tasks._npz import load_npz
from glora_automl.tasks._settings import (
    ArraysSettings,
    CsvSettings,
    DigitsSettings,
    DomainsSettings,
    FolderSettings,
    NpzSettings,
    TaskSettings,
    TimmSettings,
    TorchvisionSettings,
    VtabSettings,
)
from glora_automl.tasks._task import Task
from glora_automl.tasks._timm import load_timm
from glora_automl.tasks._torchvision import load_torchvision
from glora_automl.tasks._vtab import load_vtab

__all__ = ["load_task"]


def load_task(
    settings: TaskSettings,
    seed: int,
    progress: Progress | None = None,
    *,
    arrays: tuple[np.ndarray, ...] | None = None,
) -> Task:
    """Load a task from its source.

    Args:
        settings: Settings of the task.
        seed: Seed of the draw of train, validation and test images.
        progress: Display of long reads.
        arrays: Images and labels for the source ``arrays``; see :func:`load_arrays`.

    Raises:
        TaskError: If the images cannot be loaded.
    """
    if arrays is not None and not isinstance(settings, ArraysSettings):
        raise TaskError(
            f"task.source must be 'arrays' where arrays are given, got {settings.source!r}. "
            "Set `task.source = arrays`, or remove `arrays`."
        )
    match settings:
        case DigitsSettings():
            return load_digits(settings, seed)
        case NpzSettings():
            return load_npz(settings, seed, progress)
        case FolderSettings():
            return load_folder(settings, seed, progress)
        case CsvSettings():
            return load_csv(settings, seed, progress)
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
