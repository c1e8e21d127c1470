"""Image sets: raw, and prepared in the input format of a model."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glora_automl.errors import TaskError
from glora_automl.training import ImageBatches, Weighted

__all__ = [
    "ImageSet",
    "Images",
    "InputFormat",
    "Normalization",
    "NormalizedImages",
    "StackedImages",
]

MAX_NORMALIZED_BYTES = 1 << 28
"""Largest image set that is normalised once; larger sets are normalised per batch."""


class InputFormat(NamedTuple):
    """Input format of a model.

    Attributes:
        size: Channels, height and width.
        mean: Mean per channel, for pixels from 0 to 1.
        std: Standard deviation per channel, for pixels from 0 to 1.
        interpolation: Interpolation of the resizing, in timm's words.
        crop_pct: Fraction of a resized image file that a centre crop keeps.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0


class Normalization(NamedTuple):
    """Mean and standard deviation per channel, for pixels from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Images(ABC):
    """Raw images with labels.

    Attributes:
        labels: int64, ``(n,)``.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def subset(self, indices: Tensor) -> Self:
        """Return the images at ``indices`` ``(m,)``."""

    @abstractmethod
    def prepare(self, target: InputFormat, device: torch.device) -> tuple[ImageBatches, Tensor]:
        """Return normalised images in the format ``target`` and labels, on ``device``.

        Raises:
            TaskError: If an image cannot be decoded or has an unsupported number of channels.
        """

    @abstractmethod
    def digest(self) -> str:
        """Return the sha256 of images and labels."""

    @abstractmethod
    def image_digests(self) -> list[bytes]:
        """Return the sha256 of each image's pixels, for finding copies."""

    def peaks(self) -> np.ndarray:
        """Return the largest value of each image's pixels, 0 to 255; 255 where it is unknown."""
        return np.full(len(self), 255)


@dataclass(frozen=True, eq=False)
class StackedImages(Images):
    """Images of one size in memory, as one tensor ``(n, channels, height, width)``."""

    images: Tensor
    labels: Tensor

    def subset(self, indices: Tensor) -> Self:
        """Return the images at ``indices`` ``(m,)``."""
        parts = {name: tensor[indices] for name, tensor in self._tensors().items()}
        return replace(self, **parts)

    def digest(self) -> str:
        """Return the sha256 of the images' shape and of all tensors."""
        value = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for tensor in self._tensors().values():
            value.update(tensor.numpy().tobytes())
        return value.hexdigest()

    def image_digests(self) -> list[bytes]:
        """Return the sha256 of each image's values."""
        return [hashlib.sha256(image.tobytes()).digest() for image in self.images.numpy()]

    def _tensors(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}


@dataclass(frozen=True, eq=False)
class ImageSet(StackedImages):
    """Images of one size in memory, with labels.

    Attributes:
        images: uint8, ``(n, channels, height, width)``.
        labels: int64, ``(n,)``.
        weights: Weight of each image in the losses of trainings, ``(n,)``; None if all are equal.
    """

    weights: Tensor | None = None

    def prepare(self, target: InputFormat, device: torch.device) -> tuple[ImageBatches, Tensor]:
        """Return normalised images in the format ``target`` and labels, on ``device``.

        Grey images are repeated over the channels. Images of another size are resized bicubically.
        Large sets are normalised per batch.

        Raises:
            TaskError: If the number of channels is neither 1 nor the model's.

        Example:
            >>> grey = ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
            >>> target = InputFormat((3, 16, 16), (0.5,) * 3, (0.5,) * 3)
            >>> x, y = grey.prepare(target, torch.device("cpu"))
            >>> tuple(x[:].shape), x[:].max().item()
            ((2, 3, 16, 16), -1.0)
        """
        channels, *_, last = self.images.shape[1:]
        if channels not in (1, target.size[0]):
            hint = "Set in_chans in `backbone.kwargs`."
            if last == target.size[0]:
                hint = "Give tensors the shape (n, channels, height, width)."
            raise TaskError(
                f"The images must have 1 or {target.size[0]} channels, as the backbone expects, "
                f"got {channels}. {hint}"
            )
        pixels = NormalizedImages(self.images.to(device), target)
        fits = len(self) * 4 * int(np.prod(target.size)) <= MAX_NORMALIZED_BYTES
        images: ImageBatches = pixels[:] if fits else pixels
        if self.weights is not None:
            images = Weighted(images, self.weights.to(device))
        return images, self.labels.to(device)

    def peaks(self) -> np.ndarray:
        """Return the largest value of each image's pixels."""
        return self.images.flatten(1).amax(1).numpy() if len(self) else np.zeros(0)


class NormalizedImages:
    """Images of one size that are normalised when they are indexed.

    Args:
        pixels: uint8, ``(n, channels, height, width)``, on the target device.
        target: Input format of the model.
    """

    def __init__(self, pixels: Tensor, target: InputFormat) -> None:
        self._pixels = pixels
        self._size = target.size
        # As image files are resized; torch has these two with antialiasing.
        self._mode = "bilinear" if target.interpolation == "bilinear" else "bicubic"
        self._mean = torch.tensor(target.mean, device=pixels.device)[:, None, None]
        self._std = torch.tensor(target.std, device=pixels.device)[:, None, None]

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self._pixels.device

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        channels, height, width = self._size
        x = self._pixels[index].float().div_(255)
        if x.shape[1] == 1:
            x = x.expand(-1, channels, -1, -1)
        if x.shape[2:] != (height, width):
            x = F.interpolate(x, (height, width), mode=self._mode, antialias=True).clamp_(0, 1)
        # In place, as one batch may take most of the memory.
        return x.contiguous().sub_(self._mean).div_(self._std)
