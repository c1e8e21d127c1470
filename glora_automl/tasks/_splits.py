"""Tasks from the splits of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from glora_automl._messages import short
from glora_automl.errors import TaskError
from glora_automl.tasks._copies import draw_distinct
from glora_automl.tasks._encoded import EncodedImages
from glora_automl.tasks._images import Images
from glora_automl.tasks._layout import check_names
from glora_automl.tasks._reading import EncodedSet, Reader
from glora_automl.tasks._settings import LabelledSettings
from glora_automl.tasks._task import Domain, Task

__all__ = [
    "Examples",
    "check_classes",
    "check_images",
    "encoded_sets",
    "encoded_task",
    "split_task",
]


class Examples(NamedTuple):
    """Encoded images of a split, with labels.

    Attributes:
        images: Encoded images.
        labels: Class indices ``(n,)``.
    """

    images: EncodedImages
    labels: np.ndarray


def split_task(
    name: str,
    classes: Sequence[str],
    splits: Mapping[str, Images],
    settings: LabelledSettings,
    seed: int,
) -> Task:
    """Draw a task from splits.

    Without a test split, an unused validation split becomes the test split. ImageNet is such a
    case: the labels of its test split are not public.

    Args:
        name: Name of the task.
        classes: Class names; labels index them.
        splits: ``train``, and optionally ``val`` and ``test``.
        settings: Numbers of images.
        seed: Seed of the draw.

    Raises:
        TaskError: If there are too few images or classes.
    """
    splits = dict(splits)
    train = splits["train"]
    check_classes(name, classes)
    if "test" not in splits and "val" in splits and not settings.takes_own_validation:
        splits["test"] = splits.pop("val")
    own = "val" in splits and settings.takes_own_validation
    train_indices, validation_indices, test_indices = (
        torch.from_numpy(indices)
        for indices in draw_distinct(
            train,
            settings,
            seed,
            validation=not own,
            test="test" not in splits,
            names=classes,
        )
    )
    return Task(
        name=name,
        classes=tuple(classes),
        train=train.subset(train_indices),
        validation=splits["val"] if own else train.subset(validation_indices),
        test=splits["test"] if "test" in splits else train.subset(test_indices),
    )


def encoded_sets(splits: Mapping[str, Examples], reader: Reader) -> dict[str, Images]:
    """Return the image set per split, without unreadable images if these are skipped.

    Raises:
        TaskError: If a split has no readable image.
    """
    selected = [(images, np.arange(len(labels))) for images, labels in splits.values()]
    if reader.settings.unreadable == "skip":
        masks = reader.readable(selected)
        selected = [(images, i[mask]) for (images, i), mask in zip(selected, masks, strict=True)]
    sets: dict[str, Images] = {}
    for (split, examples), (images, indices) in zip(splits.items(), selected, strict=True):
        if not len(indices):
            raise TaskError(
                f"The split {split!r} must hold readable images, got none. Add images to the split."
            )
        labels = torch.from_numpy(examples.labels[indices].astype(np.int64))
        sets[split] = EncodedSet(images, indices, labels, reader)
    return sets


def check_images(task: Task) -> Task:
    """Decode each encoded image of a task once, and return the task.

    An unreadable test image would otherwise raise an error at the end of a study.

    Raises:
        TaskError: If an image is unreadable.
    """
    parts = [task.train, task.validation, task.test, *(d.images for d in task.domains.values())]
    files = [part for part in parts if isinstance(part, EncodedSet)]
    if files and files[0].reader.settings.unreadable == "refuse":
        files[0].reader.readable([(part.source, part.indices) for part in files])
    return task


def encoded_task(
    name: str,
    classes: Sequence[str],
    splits: Mapping[str, Examples],
    settings: LabelledSettings,
    seed: int,
    reader: Reader,
    domains: Mapping[str, Domain] | None = None,
) -> Task:
    """Draw a task from splits of encoded images; see :func:`split_task`."""
    task = split_task(name, classes, encoded_sets(splits, reader), settings, seed)
    return check_images(replace(task, domains=dict(domains or {})))


def check_classes(name: str, classes: Sequence[str]) -> None:
    """Check that a task has at least two classes, with usable names.

    Raises:
        TaskError: If it has fewer, or the name of one is no UTF-8 text.
    """
    check_names(classes)
    if len(classes) < 2:
        only = f", {short(classes[0])}" if classes else ""
        raise TaskError(
            f"The task {short(name)} must have at least two classes, got {len(classes)}{only}. "
            "Add images of another class."
        )
