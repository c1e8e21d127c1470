"""Visual Task Adaptation Benchmark with 1,000 images per task (arXiv 1910.04867)."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import numpy as np
from pydantic import field_validator
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from glora_automl._declarations import suggest
from glora_automl._files import read_file
from glora_automl._messages import short
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._encoded import FileImages
from glora_automl.tasks._folder import existing_folder
from glora_automl.tasks._images import Normalization
from glora_automl.tasks._reading import Reader, ReadingSettings
from glora_automl.tasks._splits import Examples, check_images, encoded_sets
from glora_automl.tasks._task import Task

__all__ = ["VTAB", "VtabSettings", "load_vtab"]


class VtabTask(NamedTuple):
    """Task of the benchmark.

    Attributes:
        group: ``natural``, ``specialized`` or ``structured``; accuracies are averaged within groups
            first.
        n_classes: Number of classes.
    """

    group: Literal["natural", "specialized", "structured"]
    n_classes: int


VTAB = {
    "cifar": VtabTask("natural", 100),
    "caltech101": VtabTask("natural", 102),
    "dtd": VtabTask("natural", 47),
    "oxford_flowers102": VtabTask("natural", 102),
    "oxford_iiit_pet": VtabTask("natural", 37),
    "svhn": VtabTask("natural", 10),
    "sun397": VtabTask("natural", 397),
    "patch_camelyon": VtabTask("specialized", 2),
    "eurosat": VtabTask("specialized", 10),
    "resisc45": VtabTask("specialized", 45),
    "diabetic_retinopathy": VtabTask("specialized", 5),
    "clevr_count": VtabTask("structured", 8),
    "clevr_dist": VtabTask("structured", 6),
    "dmlab": VtabTask("structured", 6),
    "kitti": VtabTask("structured", 4),
    "dsprites_loc": VtabTask("structured", 16),
    "dsprites_ori": VtabTask("structured", 16),
    "smallnorb_azi": VtabTask("structured", 18),
    "smallnorb_ele": VtabTask("structured", 9),
}
"""The 19 tasks, named as in the folders of NOAH, FacT and SSF."""


class VtabSettings(ReadingSettings):
    """Task in the folder layout of NOAH (arXiv 2206.04673), FacT and SSF.

    ``<path>/<name>`` holds the images and the lists ``train800.txt``, ``val200.txt`` and
    ``test.txt``, with one line ``relative/path label`` per image.

    Attributes:
        source: Kind of task.
        name: One of the 19 names in :data:`VTAB`.
        path: The folder of all tasks; a recipe file gives it relative to its own folder.
        normalization: ``imagenet`` uses ImageNet's mean and standard deviation, ``none`` leaves
            pixels from 0 to 1, ``backbone`` uses the backbone's. Published accuracies differ by it.
    """

    source: Literal["vtab"]
    name: str
    path: str
    normalization: Literal["imagenet", "none", "backbone"] = "backbone"

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name not in VTAB:
            raise ValueError(f"must be one of the 19 VTAB tasks, got {name!r}. "
                             f"{suggest(name, list(VTAB))}")  # fmt: skip
        return name


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
