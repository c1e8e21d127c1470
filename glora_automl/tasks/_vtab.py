"""Visual Task Adaptation Benchmark with 1,000 images per task (arXiv 1910.04867)."""

from __future__ import annotations

import re

import numpy as np
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from glora_automl._files import read_file
from glora_automl._messages import short
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._encoded import FileImages
from glora_automl.tasks._folder import existing_folder
from glora_automl.tasks._images import Normalization
from glora_automl.tasks._reading import Reader
from glora_automl.tasks._settings import VtabSettings
from glora_automl.tasks._splits import Examples, check_images, encoded_sets
from glora_automl.tasks._task import Task
from glora_automl.tasks._vtab_tasks import VTAB

__all__ = ["load_vtab"]


def load_vtab(settings: VtabSettings, progress: Progress | None = None) -> Task:
    """Load a task; its lists hold the train, validation and test images.

    Raises:
        TaskError: If a list or an image is missing or unreadable.
    """
    folder = existing_folder(settings.path) / settings.name
    n_classes = VTAB[settings.name].n_classes
    lists = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}
    examples = {}
    for split, name in lists.items():
        path = folder / name
        try:
            lines = read_file(path).decode().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise TaskError(
                f"task.path must hold a readable list {settings.name}/{name}, got "
                f"{short(str(path), 90)}: {reason}. Set `task.path` to a folder "
                "in the layout of NOAH."
            ) from None
        examples[split] = _parse_list(lines, str(folder), str(path), n_classes)
    sets = encoded_sets(examples, Reader(settings, progress))
    return check_images(
        Task(
            name=settings.name,
            classes=tuple(map(str, range(n_classes))),
            train=sets["train"],
            validation=sets["val"],
            test=sets["test"],
            normalization=NORMALIZATIONS[settings.normalization],
        )
    )


NORMALIZATIONS = {
    "imagenet": Normalization(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "none": Normalization((0.0,) * 3, (1.0,) * 3),
    "backbone": None,
}


def _parse_list(lines: list[str], folder: str, where: str, n_classes: int) -> Examples:
    """Return the images of a list."""
    paths, labels = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path, _, label = line.rpartition(" ")
        if not path or not re.fullmatch(r"\d{1,4}", label) or int(label) >= n_classes:
            raise TaskError(
                f"Line {number} of {short(where, 90)} must be 'relative/path label' with a label "
                f"from 0 to {n_classes - 1}, got {short(line)}. Correct the list."
            )
        paths.append(f"{folder}/{path}")
        labels.append(int(label))
    return Examples(FileImages(paths), np.array(labels, dtype=np.int64))
