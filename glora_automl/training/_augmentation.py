"""Random augmentation of batches."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import torch
from timm.data.mixup import Mixup
from torch import Tensor
from torch.nn import functional as F

from glora_automl.training._settings import TrainingSettings

__all__ = ["BatchTransform", "augment", "create_transform", "mix_pairs"]

BatchTransform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Transform of the images and labels of one shard before a training step.

Labels are class indices ``(n,)`` and may come back as class probabilities ``(n, classes)``. Random
numbers are torch's, which are seeded before each step.
"""


def create_transform(settings: TrainingSettings, n_classes: int) -> BatchTransform:
    """Create the batch transform of a training.

    Args:
        settings: Settings of the training.
        n_classes: Number of the model's classes.
    """
    mix = None
    if settings.mixup or settings.cutmix:
        mix = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=settings.mixup,
            cutmix_alpha=settings.cutmix,
            mode="elem",
            label_smoothing=0.0,
            num_classes=n_classes,
        )

    def transform(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = augment(images, shift=settings.shift, hflip=settings.hflip)
        return (images, labels) if mix is None else mix_pairs(mix, images, labels, n_classes)

    return transform


_numpy_lock = threading.Lock()


def mix_pairs(mix: Mixup, images: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Mix pairs of images and labels with timm's mixup and CutMix.

    timm draws from NumPy's global generator, which is seeded from torch's and then restored. The
    last image of an odd batch has no partner and stays as it is.

    Args:
        mix: timm's mixup.
        images: ``(n, channels, height, width)``.
        labels: Class indices ``(n,)``.
        n_classes: Number of classes.

    Returns:
        Images of the same shape and class probabilities ``(n, n_classes)``.

    Example:
        >>> mix = Mixup(mixup_alpha=0.4, cutmix_alpha=0.0, mode="elem", num_classes=3)
        >>> x, y = mix_pairs(mix, torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]), 3)
        >>> x.shape, y.shape, y[-1].tolist()
        (torch.Size([5, 1, 4, 4]), torch.Size([5, 3]), [0.0, 1.0, 0.0])
    """
    n_paired = len(images) // 2 * 2
    probabilities = F.one_hot(labels, n_classes).to(images.dtype)
    if not n_paired:
        return images, probabilities
    seed = int(torch.randint(2**31, ()))
    with _numpy_lock:
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002
        try:
            # timm mixes in place, and the images may be the caller's.
            mixed, targets = mix(images[:n_paired].clone(), labels[:n_paired])
        finally:
            np.random.set_state(state)  # noqa: NPY002
    images = torch.cat([mixed, images[n_paired:]])
    return images, torch.cat([targets.to(probabilities), probabilities[n_paired:]])


def augment(images: Tensor, *, shift: float = 0.0, hflip: bool = False) -> Tensor:
    """Shift each image at random and mirror half of them.

    The edge pixels repeat where a shift leaves a gap. Random numbers are torch's, on the images'
    device.

    Args:
        images: ``(n, channels, height, width)``.
        shift: Maximum shift in each direction, as a fraction of height and width.
        hflip: Mirror each image from left to right with probability 0.5.

    Returns:
        New images of the same shape, or ``images`` itself without shift and flip.

    Example:
        >>> image = torch.arange(4.0).reshape(1, 1, 1, 4)
        >>> _ = torch.manual_seed(1)
        >>> augment(image, shift=0.25)[0, 0, 0].tolist()
        [1.0, 2.0, 3.0, 3.0]
    """
    if not (shift or hflip):
        return images
    count, channels, height, width = images.shape
    device = images.device
    rows = _shifted_indices(count, height, shift, device)
    columns = _shifted_indices(count, width, shift, device)
    if hflip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    image = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _shifted_indices(count: int, size: int, shift: float, device: torch.device) -> Tensor:
    """Return the source row, or column, of each row of each image, ``(count, size)``."""
    limit = int(shift * size)
    offset = torch.randint(-limit, limit + 1, (count, 1), device=device)
    return (torch.arange(size, device=device) + offset).clamp(0, size - 1)
