"""Images that Python gives as arrays, instead of a place where they are."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from glora_automl.errors import TaskError
from glora_automl.tasks._images import ImageSet, Task
from glora_automl.tasks._labelled import LabelledSettings, draw_labelled
from glora_automl.tasks._splits import check_classes

__all__ = ["ArraysSettings", "load_arrays"]


class ArraysSettings(LabelledSettings):
    """Images and labels that :func:`glora_automl.search` is given as ``arrays``.

    Attributes:
        source: Names this kind of task.
        test: As for other tasks, but None draws no test images: nothing is tested then.
    """

    source: Literal["arrays"]


def load_arrays(
    settings: ArraysSettings, seed: int, arrays: tuple[np.ndarray, np.ndarray] | None
) -> Task:
    """Draw a task from arrays.

    Args:
        settings: How many of the images are used.
        seed: Decides which.
        arrays: Images, uint8 of shape ``(n, height, width)`` or ``(n, height, width, channels)``,
            and their labels ``(n,)``, integers or texts; each value is a class.

    Raises:
        TaskError: If there are none, or not as they should be.

    Example:
        >>> x, y = np.zeros((10, 8, 8), dtype=np.uint8), np.repeat(["ant", "bee"], 5)
        >>> task = load_arrays(ArraysSettings(source="arrays"), 0, (x, y))
        >>> task.classes, len(task.train), len(task.validation), len(task.test)
        (('ant', 'bee'), 8, 2, 0)
    """
    if arrays is None:
        raise TaskError(
            "task.source: the images are arrays that Python gives, which are not kept; call "
            "glora_automl.search with the recipe and arrays=(images, labels)."
        )
    images, labels = arrays
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise TaskError(
            "arrays: the images must be uint8 of shape (n, height, width) or (n, height, width, "
            f"channels), got {images.dtype} of shape {images.shape}."
        )
    if labels.shape != (len(images),):
        raise TaskError(
            f"arrays: there must be one label an image, got shape {labels.shape} for {len(images)} "
            "images."
        )
    values, indices = np.unique(labels, return_inverse=True)
    names = tuple(map(str, values))
    check_classes("arrays", names)
    pixels = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    everything = ImageSet(
        torch.from_numpy(np.array(pixels, order="C")), torch.from_numpy(indices.astype(np.int64))
    )
    parts = draw_labelled(indices, settings, seed, test=settings.test_size is not None, names=names)
    fit, validation, test = (everything.subset(torch.from_numpy(part)) for part in parts)
    return Task("arrays", names, fit, validation, test)
