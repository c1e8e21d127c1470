"""Images in one folder per class, laid out as for torchvision's ``ImageFolder``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._encoded import FileImages
from glora_automl.tasks._labelled import LabelledSettings
from glora_automl.tasks._reading import Reader, ReadingSettings
from glora_automl.tasks._splits import Examples, encoded_task
from glora_automl.tasks._task import Task

__all__ = ["FolderSettings", "class_folders", "folder_examples", "load_folder", "split_folders"]

SPLITS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}
"""Folder names per split."""


class FolderSettings(LabelledSettings, ReadingSettings):
    """Folder with one folder of images per class.

    The class folders may stand in the folders ``train`` and, optionally, ``val`` (``validation``,
    ``valid``) and ``test``.

    Attributes:
        source: Kind of task.
        path: The folder; a recipe file gives it relative to its own folder.
    """

    source: Literal["folder"]
    path: str


def load_folder(settings: FolderSettings, seed: int, progress: Progress | None = None) -> Task:
    """Load a task from a folder.

    Raises:
        TaskError: If the folder is missing or empty, or holds an unreadable image.
    """
    folder = existing_folder(settings.path)
    splits = split_folders(folder)
    classes = class_folders(splits["train"])
    examples = {split: folder_examples(path, classes) for split, path in splits.items()}
    reader = Reader(settings, progress)
    return encoded_task(folder.name, classes, examples, settings, seed, reader)


def existing_folder(path: str) -> Path:
    """Return the folder at ``path``.

    Raises:
        TaskError: If it does not exist.
    """
    folder = Path(os.path.expanduser(path))
    if not folder.is_dir():
        raise TaskError(
            f"task.path must be a folder, got {path!r}. Set `task.path` relative to the recipe's "
            "folder."
        )
    return folder


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder per split; without ``train``, the folder itself is the training split."""
    found = {
        split: folder / name
        for split, names in SPLITS.items()
        for name in reversed(names)
        if (folder / name).is_dir()
    }
    return found if "train" in found else {"train": folder}


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders, sorted, without hidden folders.

    Raises:
        TaskError: If the folder is unreadable or holds no folder.
    """
    try:
        found = [p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    except OSError as error:
        raise TaskError(
            f"task.path must be readable, got {str(folder)!r}: {error.strerror}. "
            "Set another `task.path`."
        ) from None
    if not found:
        raise TaskError(
            f"task.path must hold one folder of images per class, got {str(folder)!r} without "
            "folders. Sort the images into class folders."
        )
    return sorted(found)


def folder_examples(
    folder: Path, classes: Sequence[str], names: Sequence[str] | None = None
) -> Examples:
    """Return the images in class folders.

    Args:
        folder: Folder of the class folders.
        classes: Class names; labels index them.
        names: Folder names of the classes; None is the class names.

    Raises:
        TaskError: If a folder belongs to no class or holds no image.
    """
    index = {name: i for i, name in enumerate(names or classes)}
    found = class_folders(folder)
    if unknown := [name for name in found if name not in index]:
        raise TaskError(
            f"Each folder in {str(folder)!r} must be one of the {len(classes)} train classes, got "
            f"{unknown[0]!r}. Remove or rename the folder."
        )
    samples = make_dataset(folder, {n: index[n] for n in found}, IMG_EXTENSIONS, allow_empty=True)
    labels = np.array([label for _, label in samples], dtype=np.int64)
    if empty := [name for name in found if index[name] not in set(labels.tolist())]:
        raise TaskError(
            f"Each class folder in {str(folder)!r} must hold images ({', '.join(IMG_EXTENSIONS)}), "
            f"got {empty[0]!r} without images. Fill or remove the folder."
        )
    return Examples(FileImages([path for path, _ in samples]), labels)
