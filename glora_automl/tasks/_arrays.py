"""Images as NumPy arrays, passed from Python."""

from __future__ import annotations

import numpy as np
import torch

from glora_automl.errors import TaskError
from glora_automl.tasks._copies import draw_distinct
from glora_automl.tasks._images import ImageSet
from glora_automl.tasks._settings import ArraysSettings
from glora_automl.tasks._splits import check_classes
from glora_automl.tasks._targets import check_targets
from glora_automl.tasks._task import Task

__all__ = ["load_arrays"]


def load_arrays(settings: ArraysSettings, seed: int, arrays: tuple[np.ndarray, ...] | None) -> Task:
    """Draw a task from arrays.

    Args:
        settings: Numbers of images.
        seed: Seed of the draw.
        arrays: Images, uint8 of shape ``(n, height, width)`` or ``(n, height, width, channels)``,
            and labels ``(n,)``, integers or strings. Each distinct label is a class. A third array
            has the weight of each image in the losses of trainings, ``(n,)``.

    Raises:
        TaskError: If the arrays are missing or have another type or shape.

    Example:
        >>> x = np.random.default_rng(0).integers(0, 256, (10, 8, 8), dtype=np.uint8)
        >>> y = np.repeat(["ant", "bee"], 5)
        >>> task = load_arrays(ArraysSettings(source="arrays"), 0, (x, y))
        >>> task.classes, len(task.train), len(task.validation), len(task.test)
        (('ant', 'bee'), 8, 2, 0)
    """
    if arrays is None:
        raise TaskError(
            "arrays must be (images, labels) where task.source is 'arrays', got None: a study does "
            "not keep them. Call search with arrays=(images, labels), or another function with "
            "Workspace(data=(images, labels))."
        )
    images, labels, *rest = arrays
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise TaskError(
            "The images of arrays must be uint8 of shape (n, height, width) or (n, height, width, "
            f"channels), got {images.dtype} of shape {images.shape}. Convert the images."
        )
    if labels.shape != (len(images),):
        raise TaskError(
            f"The labels of arrays must have one label per image, got shape {labels.shape} for "
            f"{len(images)} images. Pass one label per image."
        )
    check_targets("The labels of arrays", labels)
    values, indices = np.unique(labels, return_inverse=True)
    names = tuple(map(str, values))
    check_classes("arrays", names)
    pixels = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    image_set = ImageSet(
        torch.from_numpy(np.array(pixels, order="C")),
        torch.from_numpy(indices.astype(np.int64)),
        _weights(rest[0], len(labels)) if rest else None,
    )
    has_test = settings.test_size is not None
    parts = draw_distinct(image_set, settings, seed, test=has_test, names=names)
    train, validation, test = (image_set.subset(torch.from_numpy(part)) for part in parts)
    return Task("arrays", names, train, validation, test)


def _weights(weights: np.ndarray, n_images: int) -> torch.Tensor:
    """Return the weights of images.

    Raises:
        TaskError: If they are not one positive number for each image.
    """
    valid = weights.shape == (n_images,) and weights.dtype.kind in "fiu"
    if not (valid and np.isfinite(weights).all() and (weights > 0).all()):
        raise TaskError(
            f"The weights of arrays must be {n_images} numbers above 0, one per image, got "
            f"{weights.dtype} of shape {weights.shape}. Leave out images of weight 0."
        )
    return torch.from_numpy(weights.astype(np.float32))
