"""Random augmentation of batches."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import numpy as np
import torch
from timm.data.mixup import Mixup
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from glora_automl.training._settings import TrainingSettings

__all__ = ["BatchTransform", "create_transform", "mix_pairs"]

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

    create = functools.cache(functools.partial(_create_augmentation, settings=settings))

    def transform(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        augmentation = create(tuple(images.shape[-2:]))
        if augmentation is not None and len(images):
            # torchvision gives all images of a batch the same random crop.
            images = torch.stack([augmentation(image) for image in images])
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


def _create_augmentation(
    size: tuple[int, int], settings: TrainingSettings
) -> Callable[[Tensor], Tensor] | None:
    """Create the transform of single images ``(channels, height, width)``; None without any.

    Args:
        size: Height and width.
        settings: Settings of the training.
    """
    height, width = size
    parts: list[nn.Module] = []
    if settings.scale < 1:
        parts.append(v2.RandomResizedCrop(size, scale=(settings.scale, 1.0), antialias=True))
    if settings.shift:
        padding = [int(settings.shift * width), int(settings.shift * height)]
        # The edge pixels repeat, as the border of a normalised image is not black.
        parts.append(v2.RandomCrop(size, padding=padding, padding_mode="edge"))
    if settings.hflip:
        parts.append(v2.RandomHorizontalFlip(settings.hflip))
    return v2.Compose(parts) if parts else None
