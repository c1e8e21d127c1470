"""Images in a folder for each class, as torchvision's ``ImageFolder`` has them."""

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
from glora_automl.tasks._images import Task
from glora_automl.tasks._labelled import LabelledSettings
from glora_automl.tasks._reading import Reader, ReadingSettings
from glora_automl.tasks._splits import Examples, encoded_task

__all__ = ["FolderSettings", "class_folders", "folder_examples", "load_folder", "split_folders"]

SPLITS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}
"""Names of the folders of each split."""


class FolderSettings(LabelledSettings, ReadingSettings):
    """A folder with a folder of images for each class.

    Or with ``train``, and perhaps ``val`` (``validation``, ``valid``) and ``test``, with a folder
    for each class in each of them.

    Attributes:
        source: Names this kind of task.
        path: The folder; in a recipe file a path from its folder.
    """

    source: Literal["folder"]
    path: str


def load_folder(settings: FolderSettings, seed: int, progress: Progress | None = None) -> Task:
    """Load a task from a folder.

    Raises:
        TaskError: If it is not there, empty, or holds images that cannot be read.
    """
    folder = existing_folder(settings.path)
    splits = split_folders(folder)
    classes = class_folders(splits["train"])
    examples = {split: folder_examples(path, classes) for split, path in splits.items()}
    reader = Reader(settings, progress)
    return encoded_task(folder.name, classes, examples, settings, seed, reader)


def existing_folder(path: str) -> Path:
    """The folder of that path.

    Raises:
        TaskError: If there is none.
    """
    folder = Path(os.path.expanduser(path))
    if not folder.is_dir():
        raise TaskError(
            f"task.path: {path!r} must be a folder; in a recipe file it is a path from that file's "
            "folder."
        )
    return folder


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders of the splits; without ``train`` the folder itself is that."""
    found = {
        split: folder / name
        for split, names in SPLITS.items()
        for name in reversed(names)
        if (folder / name).is_dir()
    }
    return found if "train" in found else {"train": folder}


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders, sorted; hidden ones are none.

    Raises:
        TaskError: If there is none, or it cannot be read.
    """
    try:
        found = [p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    except OSError as error:
        raise TaskError(f"task.path: {str(folder)!r} cannot be read: {error.strerror}.") from None
    if not found:
        raise TaskError(
            f"task.path: {str(folder)!r} must hold a folder of images for each class, it holds no "
            "folder."
        )
    return sorted(found)


def folder_examples(
    folder: Path, classes: Sequence[str], names: Sequence[str] | None = None
) -> Examples:
    """The images of class folders.

    Args:
        folder: Holds the class folders.
        classes: Class names; labels index them.
        names: Names of the folders of the classes, where they are others.

    Raises:
        TaskError: If there is a folder of no class, or one without an image.
    """
    index = {name: i for i, name in enumerate(names or classes)}
    found = class_folders(folder)
    if strange := [name for name in found if name not in index]:
        raise TaskError(
            f"task.path: each folder in {str(folder)!r} must be one of the {len(classes)} classes "
            f"that are trained on, got {strange[0]!r}; remove or rename it."
        )
    samples = make_dataset(folder, {n: index[n] for n in found}, IMG_EXTENSIONS, allow_empty=True)
    labels = np.array([label for _, label in samples], dtype=np.int64)
    if empty := [name for name in found if index[name] not in set(labels.tolist())]:
        raise TaskError(
            f"task.path: each class folder in {str(folder)!r} must hold images "
            f"({', '.join(IMG_EXTENSIONS)}), {empty[0]!r} holds none; fill or remove it."
        )
    return Examples(FileImages([path for path, _ in samples]), labels)
