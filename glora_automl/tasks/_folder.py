"""Images in one folder per class, laid out as for torchvision's ``ImageFolder``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glora_automl._messages import short
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._encoded import FileImages
from glora_automl.tasks._finding import PassedOver, find_images, is_hidden, list_folder
from glora_automl.tasks._layout import EXPECTED, class_folders, find_layout
from glora_automl.tasks._reading import Reader
from glora_automl.tasks._settings import FolderSettings
from glora_automl.tasks._splits import Examples, encoded_task
from glora_automl.tasks._task import Task

__all__ = ["existing_folder", "folder_examples", "load_folder"]


def load_folder(settings: FolderSettings, seed: int, progress: Progress | None = None) -> Task:
    """Load a task from a folder.

    Raises:
        TaskError: If the folder is missing or empty, or holds an unreadable image.
    """
    layout = find_layout(existing_folder(settings.path))
    classes = class_folders(layout.splits["train"])
    reader = Reader(settings, progress)
    for remark in layout.remarks:
        reader.progress.log(remark)
    passed_over = PassedOver()
    examples: dict[str, Examples] = {
        split: folder_examples(path, classes, passed_over=passed_over)
        for split, path in layout.splits.items()
    }
    passed_over.log(reader.progress)
    return encoded_task(layout.root.name, classes, examples, settings, seed, reader)


def existing_folder(path: str) -> Path:
    """Return the folder at ``path``.

    Raises:
        TaskError: If it does not exist.
    """
    folder = Path(os.path.expanduser(path))
    if not os.path.isdir(folder):
        raise TaskError(
            f"task.path must be a folder, got {short(path, 100)}. Correct `task.path`; that "
            "of a recipe's file is relative to its folder."
        )
    return folder


def folder_examples(
    folder: Path,
    classes: Sequence[str],
    names: Sequence[str] | None = None,
    passed_over: PassedOver | None = None,
) -> Examples:
    """Return the images in class folders.

    Args:
        folder: Folder of the class folders.
        classes: Class names; labels index them.
        names: Folder names of the classes; None is the class names.
        passed_over: Counts the files that are no images.

    Raises:
        TaskError: If a folder belongs to no class, or has no image or images in several folders.
    """
    counts = PassedOver() if passed_over is None else passed_over
    index = {name: i for i, name in enumerate(names or classes)}
    files: list[str] = []
    labels: list[int] = []
    for name in class_folders(folder):
        if name not in index:
            raise TaskError(
                f"Each folder in {short(str(folder), 90)} must be one of the {len(classes)} train "
                f"classes, got {short(name)}. Remove or rename the folder."
            )
        found = find_images(folder / name, counts)
        _check_class(folder, name, found)
        files += found
        labels += [index[name]] * len(found)
    counts.beside += sum(not is_hidden(name) for name in list_folder(folder)[1])
    return Examples(FileImages(files), np.array(labels, dtype=np.int64))


def _check_class(folder: Path, name: str, files: Sequence[str]) -> None:
    """Check that a class has images, and all of them in one folder."""
    if not files:
        raise TaskError(
            f"Each class folder in {short(str(folder), 90)} must hold images (.jpg, .png, ...), "
            f"got {short(name)} without images. Fill or remove the folder."
        )
    inside = {str(Path(file).parent.relative_to(folder / name)) for file in files}
    if len(inside) > 1:
        first = short(min(inside - {"."}), 30)
        places = f"itself and in {first}" if "." in inside else f"{first} and other folders"
        raise TaskError(
            f"The images in {short(str(folder), 60)} must be laid out as {EXPECTED}, got "
            f"{short(name, 30)} with images in {places}. Move them into one folder, or set "
            "`task.path` to the folder of the class folders."
        )
