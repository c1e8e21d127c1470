"""Images in batches: a tensor, or something that makes them when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Converted", "ImageBatches", "Joined", "Reordered", "batches"]

Index = Tensor | slice


class ImageBatches(Protocol):
    """Normalised images ``(n, channels, height, width)`` on a device; a tensor is one.

    Others make a batch when they are indexed with a slice or with an index tensor, for images that
    do not fit the memory. What takes long to make one says so with an attribute ``slow``.
    """

    @property
    def device(self) -> torch.device:
        """Where the batches are."""

    def __getitem__(self, index: Index, /) -> Tensor:
        """The images of a slice, or of some indices ``(m,)``, as one batch."""

    def __len__(self) -> int: ...


class Reordered:
    """The same images in another order, without a copy of them.

    Args:
        images: The images.
        order: Where each comes from, ``(n,)`` on their device.

    Example:
        >>> Reordered(torch.tensor([5, 6, 7]), torch.tensor([2, 0, 1]))[0:2].tolist()
        [7, 5]
    """

    def __init__(self, images: ImageBatches, order: Tensor) -> None:
        self._images = images
        self._order = order
        self.slow = _is_slow(images)

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self._images.device

    def __getitem__(self, index: Index) -> Tensor:
        return self._images[self._order[index]]

    def __len__(self) -> int:
        return len(self._order)


class Converted:
    """The same images in another type.

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
        self.slow = _is_slow(images)

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self._images.device

    def __getitem__(self, index: Index) -> Tensor:
        return self._images[index].to(self._dtype)

    def __len__(self) -> int:
        return len(self._images)


class Joined:
    """The images of two sets one after the other, without a copy of them.

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
        self.slow = _is_slow(first) or _is_slow(second)

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self._first.device

    def __getitem__(self, index: Index) -> Tensor:
        indices = torch.arange(len(self), device=self.device)[index]
        of_second = indices >= len(self._first)
        if not of_second.any():
            return self._first[indices]
        if of_second.all():
            return self._second[indices - len(self._first)]
        second = self._second[indices[of_second] - len(self._first)]
        joined = second.new_empty((len(indices), *second.shape[1:]))
        joined[of_second] = second
        joined[~of_second] = self._first[indices[~of_second]]
        return joined

    def __len__(self) -> int:
        return len(self._first) + len(self._second)


def batches(images: ImageBatches, indices: Iterable[Index]) -> Iterator[Tensor]:
    """The batches of some indices, in their order; slow ones are made one ahead, in a thread.

    Args:
        images: The images.
        indices: The index of each batch.

    Example:
        >>> [batch.tolist() for batch in batches(torch.arange(3), [slice(0, 2), slice(2, 4)])]
        [[0, 1], [2]]
    """
    if not _is_slow(images):
        for index in indices:
            yield images[index]
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="images") as ahead:
        coming = None
        for index in indices:
            ready, coming = coming, ahead.submit(images.__getitem__, index)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def _is_slow(images: ImageBatches) -> bool:
    return bool(getattr(images, "slow", False))
