"""Images that a caller has as tensors, arrays or a torch data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from glora_automl._messages import one_line
from glora_automl.errors import TaskError
from glora_automl.tasks._images import Images, ImageSet, InputFormat, StackedImages
from glora_automl.tasks._targets import check_targets
from glora_automl.training import ImageBatches

__all__ = ["TensorImages", "images_of", "splits_of"]

MAX_CLASSES = 100_000
"""Most classes; a larger index is no index, and its head would not fit into memory."""


@dataclass(frozen=True, eq=False)
class TensorImages(StackedImages):
    """Preprocessed images in memory, with labels.

    Attributes:
        images: Floats ``(n, channels, height, width)``, as the model takes them.
        labels: int64, ``(n,)``.
    """

    def prepare(self, target: InputFormat, device: torch.device) -> tuple[ImageBatches, Tensor]:
        """Return images and labels on ``device``; the format of the images stays."""
        return self.images.to(device), self.labels.to(device)


def splits_of(train: Any, validation: Any) -> tuple[Images, Images]:
    """Return training and validation images, which get the same preprocessing.

    Args:
        train: Training images and labels, as for :func:`images_of`.
        validation: Validation images and labels, likewise.

    Raises:
        TaskError: If one of them has another form, one is uint8 and the other float, or the
            training images have one class.
    """
    parts = images_of(train, "train"), images_of(validation, "validation")
    if type(parts[0]) is not type(parts[1]):
        first, second = ("uint8" if isinstance(part, ImageSet) else "float" for part in parts)
        raise TaskError(
            "train and validation must both be uint8 images, which the model's preprocessing "
            f"normalises, or both float, got {first} and {second}. Convert `train` or `validation`."
        )
    if int(parts[0].labels.min()) == int(parts[0].labels.max()):
        raise TaskError("train must have images of at least two classes. Correct `train`.")
    return parts


def images_of(data: Any, name: str) -> Images:
    """Return images and labels of a pair or a data set.

    Args:
        data: A pair ``(images, labels)`` of arrays or tensors, or a map-style
            :class:`torch.utils.data.Dataset` of such items. uint8 images have shape
            ``(n, height, width)`` or ``(n, height, width, channels)`` as arrays, and
            ``(n, channels, height, width)`` as tensors or a list of tensors; the model's
            preprocessing is applied. Float images ``(n, channels, height, width)`` are taken as
            they are. Labels are class indices ``(n,)`` of any integer type.
        name: Name of the argument, for messages.

    Raises:
        TaskError: If the data have another form.

    Example:
        >>> pair = np.zeros((4, 8, 8), dtype=np.uint8), np.array([0, 1, 0, 1])
        >>> len(images_of(pair, "train"))
        4
        >>> len(images_of((torch.zeros(2, 3, 8, 8), [0, 1]), "train"))
        2
    """
    if isinstance(data, Dataset) or not isinstance(data, Sequence) or len(data) != 2:
        data = _items(data, name)
    images, labels = data
    indices = _labels(labels, name)
    try:
        images = _stacked(images)
    except (TypeError, ValueError, RuntimeError):  # numpy's message is on the shape of the list
        raise _form(name, "images of different sizes or types") from None
    if not isinstance(images, Tensor):
        array = images
        if array.dtype == np.uint8:
            array = array[..., None] if array.ndim == 3 else array
            if array.ndim == 4:
                array = array.transpose(0, 3, 1, 2)
        elif array.dtype.kind != "f":
            raise _form(name, f"images of type {array.dtype}")
        images = torch.from_numpy(np.array(array, order="C"))
    if images.layout != torch.strided:
        raise _form(name, f"a tensor of layout {images.layout}")
    if images.ndim != 4 or len(images) != len(indices) or not len(images):
        raise _form(name, f"images of shape {tuple(images.shape)} and {len(indices)} labels")
    if images.dtype == torch.uint8:
        return ImageSet(images.cpu(), indices)
    if not images.is_floating_point():
        raise _form(name, f"images of type {images.dtype}")
    images = images.detach().float().cpu()
    # A sum takes less memory than a mask of all pixels.
    finite = images.flatten(1).sum(1).isfinite()
    if not finite.all():
        where = int((~finite).nonzero()[0])
        raise _form(name, f"NaN or infinite pixels, first in image {where}")
    return TensorImages(images, indices)


def _stacked(images: Any) -> Tensor | np.ndarray:
    """Return images as one tensor, if they are tensors, or else as one array."""
    if isinstance(images, Tensor):
        return images
    if isinstance(images, list | tuple) and images and isinstance(images[0], Tensor):
        return torch.stack(list(images))
    return np.asarray(images)


def _labels(labels: Any, name: str) -> Tensor:
    try:
        found = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    except (TypeError, ValueError, RuntimeError):
        raise _form(name, "labels that are no array") from None
    if found.dtype.kind == "f":
        check_targets(name, found)
    if found.ndim != 1 or found.dtype.kind not in "biu":
        raise _form(name, f"labels of shape {found.shape} and type {found.dtype}")
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < MAX_CLASSES:
        raise _form(name, f"labels from {found.min()} to {found.max()}, not below {MAX_CLASSES:,}")
    return torch.from_numpy(found.astype(np.int64))


def _items(data: Any, name: str) -> tuple[Any, Any]:
    """Return the items of a data set as one pair."""
    try:
        items = [data[i] for i in range(len(data))]
        for item in items:
            if not isinstance(item, Sequence) or isinstance(item, str):
                raise _form(name, f"items of type {type(item).__name__}, not (image, label)")
        images = [item[0] for item in items]
        check_targets(name, np.array([float(item[1]) for item in items]))
        labels = [int(item[1]) for item in items]
        if images and all(isinstance(image, Tensor) for image in images):
            return torch.stack(images), labels
        return np.stack([np.asarray(image) for image in images]), labels
    except TaskError:
        raise
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise _form(name, f"{type(data).__name__} ({one_line(error)[:60]})") from None


def _form(name: str, got: str) -> TaskError:
    return TaskError(
        f"{name} must be a pair (images, labels) of n images and n class indices, or a data set of "
        f"equally large images, got {got}. Correct `{name}`."
    )
