"""Images in batches: a tensor, or something that makes them when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["ImageBatches", "Reordered", "batches"]

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
