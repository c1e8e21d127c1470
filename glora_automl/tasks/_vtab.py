"""The Visual Task Adaptation Benchmark with 1,000 images a task (arXiv 1910.04867)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from pydantic import field_validator
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from glora_automl._declarations import suggest
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._encoded import FileImages
from glora_automl.tasks._folder import existing_folder
from glora_automl.tasks._images import Normalisation, Task
from glora_automl.tasks._reading import Reader, ReadingSettings
from glora_automl.tasks._splits import Examples, checked, encoded_sets

__all__ = ["VTAB", "VtabSettings", "load_vtab"]


class VtabTask(NamedTuple):
    """One of the tasks.

    Attributes:
        group: ``natural``, ``specialized`` or ``structured``; figures are averaged within groups
            first.
        classes: Number of classes.
    """

    group: Literal["natural", "specialized", "structured"]
    classes: int


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
"""The 19 tasks, named as in the folders that NOAH, FacT and SSF share."""


class VtabSettings(ReadingSettings):
    """A task in the folders that NOAH (arXiv 2206.04673), FacT and SSF share.

    ``<path>/<name>`` holds images and lists of them, ``train800.txt``, ``val200.txt`` and
    ``test.txt``, with a line ``relative/path label`` for each image.

    Attributes:
        source: Names this kind of task.
        name: One of the 19 names in :data:`VTAB`.
        path: The folder that holds all tasks; in a recipe file a path from its folder.
        normalisation: ``imagenet`` takes ImageNet's mean and deviation whatever the backbone was
            trained with, ``none`` leaves values from 0 to 1, ``backbone`` takes the backbone's.
            Published figures differ by it.
    """

    source: Literal["vtab"]
    name: str
    path: str
    normalisation: Literal["imagenet", "none", "backbone"] = "backbone"

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in VTAB:
            raise ValueError(f"must be one of VTAB's 19 tasks, got {name!r}; "
                             f"{suggest(name, list(VTAB))}")  # fmt: skip
        return name


def load_vtab(settings: VtabSettings, progress: Progress | None = None) -> Task:
    """Load a task; which images are fitted, validated and tested on is in its lists.

    Raises:
        TaskError: If a list or an image is not there or cannot be read.
    """
    folder = existing_folder(settings.path) / settings.name
    known = VTAB[settings.name]
    lists = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}
    examples = {}
    for split, name in lists.items():
        path = folder / name
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise TaskError(
                f"task.path: {str(path)!r} cannot be read: {reason}; task.path must hold the "
                "folder of the task as NOAH lays it out."
            ) from None
        examples[split] = _listed(lines, str(folder), str(path), known.classes)
    sets = encoded_sets(examples, Reader(settings, progress))
    return checked(
        Task(
            name=settings.name,
            classes=tuple(map(str, range(known.classes))),
            train=sets["train"],
            validation=sets["val"],
            test=sets["test"],
            normalisation=NORMALISATIONS[settings.normalisation],
        )
    )


NORMALISATIONS = {
    "imagenet": Normalisation(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "none": Normalisation((0.0,) * 3, (1.0,) * 3),
    "backbone": None,
}


def _listed(lines: list[str], folder: str, where: str, classes: int) -> Examples:
    """The images of a list."""
    paths, labels = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path, _, label = line.rpartition(" ")
        if not path or not label.isdecimal() or int(label) >= classes:
            raise TaskError(
                f"task.path: line {number} of {where!r} must be 'relative/path label' with a label "
                f"from 0 to {classes - 1}, got {line[:80]!r}."
            )
        paths.append(f"{folder}/{path}")
        labels.append(int(label))
    return Examples(FileImages(paths), np.array(labels, dtype=np.int64))
