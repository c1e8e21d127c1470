"""Images in memory: raw as they were read, and prepared as a model wants them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glora_automl.errors import TaskError

__all__ = ["ImageSet", "InputFormat", "Task", "stratified_split"]


class InputFormat(NamedTuple):
    """What a model wants to see.

    Attributes:
        size: Channels, height and width.
        mean: Channel means that are subtracted, for values in 0 to 1.
        std: Channel deviations that are divided by.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their classes.

    Attributes:
        images: uint8, ``(n, channels, height, width)``.
        labels: int64, ``(n,)``.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> ImageSet:
        """The images of some indices ``(m,)``."""
        return ImageSet(self.images[indices], self.labels[indices])

    def prepare(self, target: InputFormat, device: torch.device) -> tuple[Tensor, Tensor]:
        """Normalised images and labels on ``device``, in the size that a model wants.

        Grey images are repeated over the channels; others are resized bicubically.

        Raises:
            TaskError: If the channels cannot be matched.

        Example:
            >>> grey = ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
            >>> target = InputFormat((3, 16, 16), (0.5,) * 3, (0.5,) * 3)
            >>> x, y = grey.prepare(target, torch.device("cpu"))
            >>> tuple(x.shape), x.max().item()
            ((2, 3, 16, 16), -1.0)
        """
        channels, height, width = target.size
        x = self.images.to(device).float() / 255
        if x.shape[1] == 1:
            x = x.expand(-1, channels, -1, -1)
        if x.shape[1] != channels:
            raise TaskError(
                f"The images must have 1 or {channels} channels, as the backbone wants, got "
                f"{x.shape[1]}."
            )
        if x.shape[2:] != (height, width):
            x = F.interpolate(x, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
        mean = torch.tensor(target.mean, device=device)[:, None, None]
        std = torch.tensor(target.std, device=device)[:, None, None]
        return ((x - mean) / std).contiguous(), self.labels.to(device)

    def digest(self) -> str:
        """sha256 of shapes, pixels and labels."""
        value = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        value.update(self.images.contiguous().numpy().tobytes())
        value.update(self.labels.numpy().tobytes())
        return value.hexdigest()


@dataclass(frozen=True, eq=False)
class Task:
    """A classification task: three disjoint sets of images.

    Attributes:
        name: The task's name.
        classes: Class names; labels index them.
        fit: Images that adapters are trained on.
        validation: Images that steer the search. They train nothing.
        test: Images that are looked at once, at the end.
        pretraining: Images of other classes for a backbone that is pretrained on the fly, with
            labels of their own.
    """

    name: str
    classes: tuple[str, ...]
    fit: ImageSet
    validation: ImageSet
    test: ImageSet
    pretraining: ImageSet | None = None

    def digest(self) -> str:
        """sha256 of everything in the task."""
        parts = [self.fit, self.validation, self.test]
        parts += [self.pretraining] if self.pretraining is not None else []
        text = "\n".join([*self.classes, *(part.digest() for part in parts)])
        return hashlib.sha256(text.encode()).hexdigest()


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
