"""Training and validation images of a study on this machine."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from glora_automl.training import ImageBatches, Joined, Reordered

__all__ = ["Images", "PreparedImages", "at_indices"]

Images = tuple[ImageBatches, Tensor]
"""Images in the input format of a backbone and their labels ``(n,)``, on one device."""


class PreparedImages:
    """Training and validation images, each prepared when they are first read.

    All contexts of a study share one object. A second copy of image files might not fit
    ``task.memory``, and would be read from disk in every epoch.

    Args:
        train: Prepares the training images.
        validation: Prepares the validation images.
    """

    def __init__(self, train: Callable[[], Images], validation: Callable[[], Images]) -> None:
        self._train = train
        self._validation = validation

    @functools.cached_property
    def train(self) -> Images:
        """Training images and their labels."""
        return self._train()

    @functools.cached_property
    def validation(self) -> Images:
        """Validation images and their labels."""
        return self._validation()

    @functools.cached_property
    def labelled(self) -> Images:
        """Training images, then validation images, and their labels."""
        (images, labels), (more, others) = self.train, self.validation
        return Joined(images, more), torch.cat([labels, others])


def at_indices(images: Images, indices: np.ndarray) -> Images:
    """Return some images, without a copy, and their labels.

    Args:
        images: Images and labels ``(n,)``.
        indices: Places in them ``(m,)``.
    """
    batches, labels = images
    where = torch.from_numpy(indices).to(labels.device)
    return Reordered(batches, where), labels[where]
