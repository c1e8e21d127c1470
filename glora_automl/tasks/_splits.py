"""From the splits that images come in to the three sets of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from glora_automl.errors import TaskError
from glora_automl.tasks._encoded import EncodedImages
from glora_automl.tasks._images import Domain, Images, Task
from glora_automl.tasks._labelled import LabelledSettings, draw_labelled
from glora_automl.tasks._reading import EncodedSet, Reader

__all__ = ["Examples", "check_classes", "encoded_sets", "encoded_task", "split_task"]


class Examples(NamedTuple):
    """Images of a split before any of them is decoded, and their classes.

    Attributes:
        images: The images.
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
    """Draw the images of a task from its splits.

    A validation split that is not taken to steer the search is the test split, where there is no
    other: so it is with ImageNet, whose test images nobody has.

    Args:
        name: The task's name.
        classes: Class names; labels index them.
        splits: ``train``, and ``val`` and ``test`` where there are any.
        settings: How many labelled images are used.
        seed: Decides which.

    Raises:
        TaskError: If there are too few images or classes.
    """
    splits = dict(splits)
    train = splits["train"]
    check_classes(name, classes)
    if "test" not in splits and "val" in splits and not settings.takes_own_validation:
        splits["test"] = splits.pop("val")
    own = "val" in splits and settings.takes_own_validation
    fit, validation, test = (
        torch.from_numpy(indices)
        for indices in draw_labelled(
            train.labels.numpy(),
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
        train=train.subset(fit),
        validation=splits["val"] if own else train.subset(validation),
        test=splits["test"] if "test" in splits else train.subset(test),
    )


def encoded_sets(splits: Mapping[str, Examples], reader: Reader) -> dict[str, Images]:
    """Image sets of splits; images that cannot be read are left out, if they are to be skipped.

    Raises:
        TaskError: If a split has no image left.
    """
    everything = [(images, np.arange(len(labels))) for images, labels in splits.values()]
    if reader.settings.unreadable == "skip":
        sound = reader.readable(everything)
        everything = [(images, i[ok]) for (images, i), ok in zip(everything, sound, strict=True)]
    sets: dict[str, Images] = {}
    for (split, examples), (images, indices) in zip(splits.items(), everything, strict=True):
        if not len(indices):
            raise TaskError(f"task: the split {split!r} must hold images that can be read.")
        labels = torch.from_numpy(examples.labels[indices].astype(np.int64))
        sets[split] = EncodedSet(images, indices, labels, reader)
    return sets


def checked(task: Task) -> Task:
    """The task, after a look at each of its images that may turn out not to be readable.

    Now rather than at the end of a study, when the test images are asked for.

    Raises:
        TaskError: If one cannot be read.
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
    """Like :func:`split_task`, of images that are still to be decoded."""
    task = split_task(name, classes, encoded_sets(splits, reader), settings, seed)
    return checked(Task(**{**task.__dict__, "domains": dict(domains or {})}))


def check_classes(name: str, classes: Sequence[str]) -> None:
    """Refuse a task without a choice.

    Raises:
        TaskError: If there are fewer than two classes.
    """
    if len(classes) < 2:
        only = f", {classes[0]!r}" if classes else ""
        raise TaskError(f"task: {name!r} must have at least two classes, got {len(classes)}{only}.")
