"""Random augmentation of batches."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import torch
from timm.data.mixup import Mixup, cutmix_bbox_and_lam
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from glora_automl.training._settings import TrainingSettings

__all__ = ["BatchTransform", "create_transform", "mix_pairs"]

BatchTransform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Transform of the images and labels of one shard before a training step.

Labels are class indices ``(n,)`` and may come back as class probabilities ``(n, classes)``. Random
numbers are torch's, which are seeded before each step. They are drawn on the CPU and sent to the
device of the images in one piece, for which the host does not wait. All images of a batch are then
transformed at once: one by one, a GPU would wait for the host.
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
        images = _augment(images, settings)
        return (images, labels) if mix is None else mix_pairs(mix, images, labels, n_classes)

    return transform


def _augment(images: Tensor, settings: TrainingSettings) -> Tensor:
    """Crop, shift and mirror each image of a batch; the same tensor without any augmentation."""
    n_images, _, height, width = images.shape
    pads = int(settings.shift * height), int(settings.shift * width)
    if not n_images or not (settings.scale < 1 or any(pads) or settings.hflip):
        return images
    crop = v2.RandomResizedCrop((height, width), scale=(settings.scale, 1.0), antialias=True)
    cropped: list[Tensor] = []
    moves = np.zeros((n_images, 3), dtype=np.int64)
    for image, move in zip(images, moves, strict=True):
        if settings.scale < 1:
            cropped.append(crop(image))  # of another size in each image
        for axis, pad in enumerate(pads):
            if pad:
                move[axis] = int(torch.randint(2 * pad + 1, ())) - pad
        if settings.hflip:
            move[2] = bool(torch.rand(()) < settings.hflip)
    if cropped:
        images = torch.stack(cropped)
    return _move(images, moves) if any(pads) or settings.hflip else images


def _move(images: Tensor, moves: np.ndarray) -> Tensor:
    """Shift images and repeat their edges, as the border of a normalised image is not black.

    Args:
        images: ``(n, channels, height, width)``.
        moves: Shifts in rows and columns, and whether the result is mirrored, ``(n, 3)``.
    """
    height, width = images.shape[2:]
    down, right, mirrored = _send(moves, images.device).unsqueeze(2).unbind(1)
    rows = (torch.arange(height, device=images.device) + down).clamp_(0, height - 1)
    columns = torch.arange(width, device=images.device)
    columns = torch.where(mirrored == 1, width - 1 - columns, columns)
    columns = (columns + right).clamp_(0, width - 1)
    moved = images.gather(2, rows[:, None, :, None].expand_as(images))
    return moved.gather(3, columns[:, None, None, :].expand_as(images))


def _send(values: np.ndarray, device: torch.device) -> Tensor:
    """Copy values to a device without waiting for it."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


_numpy_lock = threading.Lock()


def mix_pairs(mix: Mixup, images: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Mix pairs of images and labels with timm's mixup and CutMix.

    timm draws from NumPy's global generator, which is seeded from torch's and then restored. The
    last image of an odd batch has no partner and stays as it is.

    Args:
        mix: timm's mixup, with a mode of ``elem``.
        images: ``(n, channels, height, width)``.
        labels: Class indices ``(n,)``, or weights of the classes ``(n, n_classes)``.
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
    if not labels.is_floating_point():
        labels = F.one_hot(labels, n_classes)
    probabilities = labels.to(images.dtype)
    if not n_paired:
        return images, probabilities
    height, width = images.shape[2:]
    drawn = _send(_draw_mixes(mix, n_paired, height, width), images.device)
    kept, blended, *box = (values[:, None] for values in drawn.to(images.dtype).unbind(1))
    paired = images[:n_paired]
    mixed, others = paired, paired.flip(0)
    if mix.mixup_alpha > 0:
        share = blended[:, :, None, None]
        mixed = (mixed * share).addcmul_(others, 1 - share)
    if mix.cutmix_alpha > 0:
        top, bottom, left, right = box
        rows = torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device)
        in_rows = (rows >= top) & (rows < bottom)
        in_columns = (columns >= left) & (columns < right)
        inside = in_rows[:, :, None] & in_columns[:, None, :]
        mixed = torch.where(inside[:, None], others, mixed)
    targets = probabilities[:n_paired]
    targets = targets * kept + targets.flip(0) * (1 - kept)
    if n_paired == len(images):
        return mixed, targets
    last = images[n_paired:], probabilities[n_paired:]
    return torch.cat([mixed, last[0]]), torch.cat([targets, last[1]])


def _draw_mixes(mix: Mixup, n_images: int, height: int, width: int) -> np.ndarray:
    """Draw a mix of each image, as timm does in its mode ``elem``.

    timm mixes one image after the other, and waits for the device at the end.

    Returns:
        The kept share of the label, the blended share of the image, and the top, bottom, left and
        right of the pasted box, ``(n, 6)``.
    """
    seed = int(torch.randint(2**31, ()))
    with _numpy_lock:
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002
        try:
            kept, is_pasted = mix._params_per_elem(n_images)  # type: ignore[no-untyped-call]
            drawn = np.zeros((n_images, 6), dtype=np.float32)
            drawn[:, 1] = np.where(is_pasted, 1, kept)
            for index in np.flatnonzero(is_pasted & (kept != 1)):
                share = kept[index]
                found = cutmix_bbox_and_lam((height, width), share)  # type: ignore[no-untyped-call]
                drawn[index, 2:], kept[index] = found
        finally:
            np.random.set_state(state)  # noqa: NPY002
    drawn[:, 0] = kept
    return drawn
