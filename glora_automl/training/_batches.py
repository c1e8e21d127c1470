"""Images in batches: a tensor, or an object that reads them on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

__all__ = [
    "Converted",
    "ImageBatches",
    "Joined",
    "Reordered",
    "Weighted",
    "batches",
    "is_slow",
    "reads",
    "weights_of",
]

Index = Tensor | slice


class ImageBatches(Protocol):
    """Normalised images ``(n, channels, height, width)`` on a device, such as a tensor.

    Other classes read a batch when they are indexed, for images that exceed the memory. A class
    that reads slowly has an attribute ``slow = True``; one of images that do not count equally has
    ``weights``, see :class:`Weighted`.
    """

    @property
    def device(self) -> torch.device:
        """Device of the batches."""

    def __getitem__(self, index: Index, /) -> Tensor:
        """Return the images of a slice, or of indices ``(m,)``, as one batch."""

    def __len__(self) -> int: ...


class Weighted:
    """Images that do not count equally in the losses of a training.

    Args:
        images: The images.
        weights: Weight of each image, ``(n,)`` on their device.

    Example:
        >>> images = Weighted(torch.tensor([5, 6]), torch.tensor([1.0, 3.0]))
        >>> images[1:].tolist(), weights_of(Reordered(images, torch.tensor([1, 0]))).tolist()
        ([6], [3.0, 1.0])
    """

    def __init__(self, images: ImageBatches, weights: Tensor) -> None:
        self._images = images
        self.weights = weights
        self.slow = is_slow(images)

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self._images.device

    def __getitem__(self, index: Index) -> Tensor:
        return self._images[index]

    def __len__(self) -> int:
        return len(self._images)


def weights_of(images: ImageBatches) -> Tensor | None:
    """Return the weight of each image, ``(n,)``; None if all count equally."""
    found: Tensor | None = getattr(images, "weights", None)
    return found


class Reordered:
    """Images in another order, without a copy.

    Args:
        images: The images.
        order: Index of each image in ``images``, ``(n,)`` on their device.

    Example:
        >>> Reordered(torch.tensor([5, 6, 7]), torch.tensor([2, 0, 1]))[0:2].tolist()
        [7, 5]
    """

    def __init__(self, images: ImageBatches, order: Tensor) -> None:
        self._images = images
        self._order = order
        self.slow = is_slow(images)
        weights = weights_of(images)
        self.weights = None if weights is None else weights[order]

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self._images.device

    def __getitem__(self, index: Index) -> Tensor:
        return self._images[self._order[index]]

    def __len__(self) -> int:
        return len(self._order)


class Converted:
    """Images in another type.

    Args:
        images: The images.
        dtype: The type.

    Example:
        >>> Converted(torch.tensor([0.1, 0.2]), torch.bfloat16)[0:1].dtype
        torch.bfloat16
    """

    def __init__(self, images: ImageBatches, dtype: torch.dtype) -> None:
        self._images = images
        self._dtype = dtype
        self.slow = is_slow(images)

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self._images.device

    def __getitem__(self, index: Index) -> Tensor:
        return self._images[index].to(self._dtype)

    def __len__(self) -> int:
        return len(self._images)


class Joined:
    """Images of two sets one after the other, without a copy.

    Args:
        first: Images ``(m, ...)``.
        second: Images ``(n, ...)`` of the same size on the same device.

    Example:
        >>> joined = Joined(torch.tensor([5, 6]), torch.tensor([7, 8, 9]))
        >>> len(joined), joined[torch.tensor([3, 0, 2])].tolist(), joined[1:3].tolist()
        (5, [8, 5, 7], [6, 7])
    """

    def __init__(self, first: ImageBatches, second: ImageBatches) -> None:
        self._first = first
        self._second = second
        self.slow = is_slow(first) or is_slow(second)
        self.weights = self._weights()

    def _weights(self) -> Tensor | None:
        parts = self._first, self._second
        found = [weights_of(part) for part in parts]
        if all(weights is None for weights in found):
            return None
        ones = (torch.ones(len(part), device=self.device) for part in parts)
        return torch.cat([o if w is None else w for o, w in zip(ones, found, strict=True)])

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self._first.device

    def __getitem__(self, index: Index) -> Tensor:
        indices = torch.arange(len(self), device=self.device)[index]
        in_second = indices >= len(self._first)
        if self.device.type != "cpu" and not self.slow:
            return self._merged(indices, in_second)
        if not in_second.any():
            return self._first[indices]
        if in_second.all():
            return self._second[indices - len(self._first)]
        second = self._second[indices[in_second] - len(self._first)]
        joined = second.new_empty((len(indices), *second.shape[1:]))
        joined[in_second] = second
        joined[~in_second] = self._first[indices[~in_second]]
        return joined

    def _merged(self, indices: Tensor, in_second: Tensor) -> Tensor:
        """Read both sets at all indices, so that the host need not wait to know which is where."""
        first = self._first[indices.clamp(max=len(self._first) - 1)]
        second = self._second[(indices - len(self._first)).clamp(min=0)]
        return torch.where(in_second.view(-1, *[1] * (first.ndim - 1)), second, first)

    def __len__(self) -> int:
        return len(self._first) + len(self._second)


def batches(images: ImageBatches, indices: Iterable[Index]) -> Iterator[Tensor]:
    """Yield the batches of some indices in order; a thread reads slow ones one batch ahead.

    Args:
        images: The images.
        indices: The index of each batch.

    Example:
        >>> [batch.tolist() for batch in batches(torch.arange(3), [slice(0, 2), slice(2, 4)])]
        [[0, 1], [2]]
    """
    for read in reads(images, indices):
        yield read()


def reads(images: ImageBatches, indices: Iterable[Index]) -> Iterator[Callable[[], Tensor]]:
    """Yield functions that return the :func:`batches`, which may be called again after an error."""
    if not is_slow(images):
        for index in indices:
            yield partial(images.__getitem__, index)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="images") as reader:
        following = None
        for index in indices:
            current, following = following, reader.submit(images.__getitem__, index)
            if current is not None:
                yield current.result
        if following is not None:
            yield following.result


def is_slow(images: ImageBatches) -> bool:
    """Return whether images are read and decoded when they are indexed."""
    return bool(getattr(images, "slow", False))
