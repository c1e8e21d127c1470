"""Images and tasks: raw as they were read, and prepared as a model wants them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glora_automl.errors import TaskError
from glora_automl.training import ImageBatches

__all__ = [
    "ImageSet",
    "Images",
    "InputFormat",
    "NormalisedImages",
    "Task",
    "stratified_split",
]

WHOLE = 1 << 28
"""Bytes up to which normalised images are kept; beyond that they are normalised batch by batch."""


class InputFormat(NamedTuple):
    """What a model wants to see.

    Attributes:
        size: Channels, height and width.
        mean: Channel means that are subtracted, for values in 0 to 1.
        std: Channel deviations that are divided by.
        interpolation: How image files are resized, in timm's words.
        crop_pct: Share of a resized image file that is left when its border is cropped.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0


class Normalisation(NamedTuple):
    """What is subtracted from values in 0 to 1, and what they are divided by then, a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Images(ABC):
    """Images and their classes, raw.

    Attributes:
        labels: int64, ``(n,)``.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def subset(self, indices: Tensor) -> Self:
        """The images of some indices ``(m,)``."""

    @abstractmethod
    def prepare(self, target: InputFormat, device: torch.device) -> tuple[ImageBatches, Tensor]:
        """Normalised images and labels on ``device``, in the size that a model wants.

        Raises:
            TaskError: If they cannot be had so.
        """

    @abstractmethod
    def digest(self) -> str:
        """sha256 of images and labels."""

    @abstractmethod
    def image_digests(self) -> list[bytes]:
        """sha256 of each image as it was read, by which equal ones are found."""


@dataclass(frozen=True, eq=False)
class ImageSet(Images):
    """Images of one size in memory, and their classes.

    Attributes:
        images: uint8, ``(n, channels, height, width)``.
        labels: int64, ``(n,)``.
    """

    images: Tensor
    labels: Tensor

    def subset(self, indices: Tensor) -> ImageSet:
        """The images of some indices ``(m,)``."""
        return ImageSet(self.images[indices], self.labels[indices])

    def prepare(self, target: InputFormat, device: torch.device) -> tuple[ImageBatches, Tensor]:
        """Normalised images and labels on ``device``, in the size that a model wants.

        Grey images are repeated over the channels; others are resized bicubically. Many images are
        normalised batch by batch.

        Raises:
            TaskError: If the channels cannot be matched.

        Example:
            >>> grey = ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
            >>> target = InputFormat((3, 16, 16), (0.5,) * 3, (0.5,) * 3)
            >>> x, y = grey.prepare(target, torch.device("cpu"))
            >>> tuple(x[:].shape), x[:].max().item()
            ((2, 3, 16, 16), -1.0)
        """
        channels = self.images.shape[1]
        if channels not in (1, target.size[0]):
            raise TaskError(
                f"The images must have 1 or {target.size[0]} channels, as the backbone wants, got "
                f"{channels}."
            )
        pixels = NormalisedImages(self.images.to(device), target)
        whole = len(self) * 4 * int(np.prod(target.size)) <= WHOLE
        return pixels[:] if whole else pixels, self.labels.to(device)

    def digest(self) -> str:
        """sha256 of shapes, pixels and labels."""
        value = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        value.update(self.images.contiguous().numpy().tobytes())
        value.update(self.labels.numpy().tobytes())
        return value.hexdigest()

    def image_digests(self) -> list[bytes]:
        """sha256 of the pixels of each image."""
        return [hashlib.sha256(image.tobytes()).digest() for image in self.images.numpy()]


class NormalisedImages:
    """Images of one size that become normalised batches when they are indexed.

    Args:
        pixels: uint8, ``(n, channels, height, width)``, on their device.
        target: What the model wants to see.
    """

    def __init__(self, pixels: Tensor, target: InputFormat) -> None:
        self._pixels = pixels
        self._size = target.size
        self._mean = torch.tensor(target.mean, device=pixels.device)[:, None, None]
        self._std = torch.tensor(target.std, device=pixels.device)[:, None, None]

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self._pixels.device

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        channels, height, width = self._size
        x = self._pixels[index].float().div_(255)
        if x.shape[1] == 1:
            x = x.expand(-1, channels, -1, -1)
        if x.shape[2:] != (height, width):
            x = F.interpolate(x, (height, width), mode="bicubic", antialias=True).clamp_(0, 1)
        # In place, as a batch may be as large as all the rest.
        return x.contiguous().sub_(self._mean).div_(self._std)


class Domain(NamedTuple):
    """A test set of another domain than the one that is learnt.

    Attributes:
        images: Its images.
        among: Classes ``(m,)`` that the decision is among where it has not all of them.
    """

    images: Images
    among: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """A classification task: three disjoint sets of images.

    Attributes:
        name: The task's name.
        classes: Class names; labels index them.
        train: Images that adapters are trained on.
        validation: Images that steer the search. They train nothing.
        test: Images that are looked at once, at the end; there may be none.
        pretraining: Images of other classes for a backbone that is pretrained on the fly, with
            labels of their own.
        domains: Further test sets by name, of other domains; they are looked at with ``test``.
        normalisation: Takes the place of the backbone's; None keeps that.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    pretraining: Images | None = None
    domains: Mapping[str, Domain] = field(default_factory=dict)
    normalisation: Normalisation | None = None

    def format(self, target: InputFormat) -> InputFormat:
        """What the backbone wants to see, normalised as the task has it."""
        if self.normalisation is None:
            return target
        mean, std = self.normalisation
        if target.size[0] != len(mean):  # a model of grey images
            mean, std = ((sum(v) / len(v),) * target.size[0] for v in (mean, std))
        return target._replace(mean=mean, std=std)

    def digest(self) -> str:
        """sha256 of everything in the task."""
        parts = [self.train, self.validation, self.test]
        parts += [self.pretraining] if self.pretraining is not None else []
        texts = [*self.classes, *(part.digest() for part in parts)]
        for name, domain in self.domains.items():
            among = "" if domain.among is None else str(domain.among.tolist())
            texts += [name, domain.images.digest(), among]
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()

    def repeated(self) -> dict[str, int]:
        """How many images of each test set are also among those that are fitted or validated on.

        Test sets without one are left out.
        """
        known = {*self.train.image_digests(), *self.validation.image_digests()}
        sets = {"test": self.test} | {name: d.images for name, d in self.domains.items()}
        counts = {
            name: sum(digest in known for digest in images.image_digests())
            for name, images in sets.items()
        }
        return {name: count for name, count in counts.items() if count}


def stratified_split(
    labels: Sequence[int] | np.ndarray, per_class: Sequence[int], rng: np.random.Generator
) -> list[np.ndarray]:
    """Draw disjoint index sets with so many images of each class, and one with the rest.

    Args:
        labels: Class indices ``(n,)``.
        per_class: Images of each class in the first set, the second, and so on.
        rng: Draws the images.

    Returns:
        Index arrays in ascending order, one more than ``per_class`` has entries.

    Raises:
        TaskError: If a class has too few images to leave one for the rest.

    Example:
        >>> parts = stratified_split([0, 1] * 5, [1, 2], np.random.default_rng(0))
        >>> [len(part) for part in parts]
        [2, 4, 4]
    """
    labels = np.asarray(labels)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(per_class) + 1)]
    for label in np.unique(labels):
        indices = rng.permutation(np.flatnonzero(labels == label))
        if sum(per_class) >= len(indices):
            raise TaskError(
                f"Each class must have more than {' + '.join(map(str, per_class))} images, to "
                f"leave some for the test; class {label} has {len(indices)}."
            )
        for part, chunk in zip(
            parts, np.split(indices, np.cumsum(np.asarray(per_class, dtype=int))), strict=True
        ):
            part.append(chunk)
    return [np.sort(np.concatenate(part)) for part in parts]
