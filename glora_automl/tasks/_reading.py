"""Image files on their way to the model: kept in memory where they fit, streamed otherwise."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Literal, TypeVar

import numpy as np
import torch
from pydantic import ByteSize, Field
from torch import Tensor

from glora_automl._declarations import Declaration, Int
from glora_automl.errors import TaskError
from glora_automl.progress import Advance, Progress
from glora_automl.tasks._decoding import Resize, Unreadable, check_channels, decode, fault, resizing
from glora_automl.tasks._encoded import EncodedImages
from glora_automl.tasks._images import WHOLE, Images, InputFormat, NormalisedImages
from glora_automl.training import ImageBatches

__all__ = ["EncodedSet", "Reader", "ReadingSettings"]

T = TypeVar("T")
MANY = 1000
"""Images from which on their reading is shown."""


class ReadingSettings(Declaration):
    """How image files are read; base of all tasks that come in files.

    Attributes:
        crop_mode: ``squash`` brings the whole image to the model's size, as is usual on VTAB;
            ``center`` keeps its shape and crops as the backbone was evaluated; ``border`` keeps it
            and fills up.
        memory: Most bytes, such as ``"2GB"``, of images that are kept on the device that trains, at
            the model's size; others are read again each time. It does not change what is found.
        num_workers: Threads that read; None is one a processor that the process may
            use, at most 16.
        unreadable: Whether an image that cannot be decoded is refused, or skipped before images
            are drawn.
    """

    crop_mode: Resize = "squash"
    memory: ByteSize = Field(default=ByteSize(2_000_000_000), ge=0)
    num_workers: Int | None = Field(default=None, ge=1)
    unreadable: Literal["refuse", "skip"] = "refuse"


class Reader:
    """What the image sets of a task share: threads, and the memory that is left.

    Args:
        settings: How files are read.
        progress: Shows what takes long.
    """

    def __init__(self, settings: ReadingSettings, progress: Progress | None = None) -> None:
        self.settings = settings
        self.progress = progress or Progress()
        self.workers = settings.num_workers or min(16, _processors())
        self._left = int(settings.memory)
        self._lock = threading.Lock()

    def stage(self, title: str, count: int) -> AbstractContextManager[Advance]:
        """Show the reading of images, unless they are few."""
        shown = self.progress if count >= MANY else Progress()
        return shown.stage(title, count, "images")

    def reserve(self, count: int) -> bool:
        """Take so many bytes of the memory, if they are left."""
        with self._lock:
            fits = count <= self._left
            self._left -= count if fits else 0
        return fits

    def release(self, count: int) -> None:
        """Give so many bytes back."""
        with self._lock:
            self._left += count

    def map(self, function: Callable[[int], T], indices: Iterable[int]) -> Iterator[T]:
        """The function's values, in order, from all threads; few of them wait to be taken."""
        size = 8 * self.workers
        todo = list(indices)
        with ThreadPoolExecutor(self.workers, thread_name_prefix="images") as pool:
            for start in range(0, len(todo), size):
                yield from pool.map(function, todo[start : start + size])

    def readable(self, sets: Sequence[tuple[EncodedImages, np.ndarray]]) -> list[np.ndarray]:
        """Look at images: take their digests, and decode them once to see that it goes.

        Args:
            sets: Images, and which of them, ``(n,)`` each.

        Returns:
            For each set which of its images can be decoded, ``(n,)``.

        Raises:
            TaskError: If one cannot be, and such are refused.
        """
        places = [(source, int(index)) for source, indices in sets for index in indices]

        def look(place: int) -> str | None:
            source, index = places[place]
            try:
                encoded = source.read(index)
            except Unreadable as error:
                return str(error)
            source.digest(index, encoded)
            return fault(encoded)

        faults: list[str | None] = []
        with self.stage("Check images", len(places)) as advance:
            for found in self.map(look, range(len(places))):
                faults.append(found)
                advance(1)
        bad = [(*place, why) for place, why in zip(places, faults, strict=True) if why]
        if bad:
            shown = ", ".join(f"{source.name(index)} ({why})" for source, index, why in bad[:3])
            told = f"{len(bad)} of {len(places)} images cannot be read: {shown}"
            told += ", ..." if len(bad) > 3 else ""
            if self.settings.unreadable == "refuse":
                raise TaskError(f'{told}; mend them, or set task.unreadable = "skip".')
            self.progress.log(f"{told}; they are left out.")
        sound = np.array([why is None for why in faults], dtype=bool)
        return np.split(sound, np.cumsum([len(indices) for _, indices in sets])[:-1])


def _processors() -> int:
    """Those that this process may use: a cluster gives a job fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class EncodedSet(Images):
    """Images that are decoded when they are needed, and their classes.

    Args:
        source: The images.
        indices: Which of them, ``(n,)``.
        labels: Their classes, int64 ``(n,)``.
        reader: Threads and memory.
    """

    def __init__(
        self, source: EncodedImages, indices: np.ndarray, labels: Tensor, reader: Reader
    ) -> None:
        self.source = source
        self.indices = indices
        self.labels = labels
        self.reader = reader

    def subset(self, indices: Tensor) -> EncodedSet:
        """The images of some indices ``(m,)``."""
        return EncodedSet(
            self.source, self.indices[indices.numpy()], self.labels[indices], self.reader
        )

    def prepare(self, target: InputFormat, device: torch.device) -> tuple[ImageBatches, Tensor]:
        """Normalised images and labels on ``device``, in the size that a model wants.

        The images are decoded once if all of them fit the memory that is left, and with each batch
        otherwise; the batches are the same.

        Raises:
            TaskError: If an image cannot be decoded any more, or the channels cannot be matched.
        """
        check_channels(target)
        streamed = StreamedImages(self, target, device)
        count = len(self) * int(np.prod(target.size))
        labels = self.labels.to(device)
        prepared: ImageBatches
        if 4 * count <= WHOLE and self.reader.reserve(4 * count):
            prepared, kept = (
                NormalisedImages(self._pixels(streamed).to(device), target)[:],
                4 * count,
            )
        elif self.reader.reserve(count):
            prepared, kept = NormalisedImages(self._pixels(streamed).to(device), target), count
        else:
            return streamed, labels
        weakref.finalize(prepared, self.reader.release, kept)
        return prepared, labels

    def _pixels(self, streamed: StreamedImages) -> Tensor:
        """All images, uint8 ``(n, channels, height, width)``."""
        pixels = torch.empty((len(self), *streamed.size), dtype=torch.uint8)
        with self.reader.stage("Read images", len(self)) as advance:
            everything = self.reader.map(streamed.pixels, range(len(self)))
            for place, image in zip(pixels, everything, strict=True):
                place.copy_(image)
                advance(1)
        return pixels

    def digest(self) -> str:
        """sha256 of the files' bytes and labels."""
        value = hashlib.sha256(f"files {len(self)}".encode())
        value.update(b"".join(self.image_digests()))
        value.update(self.labels.numpy().tobytes())
        return value.hexdigest()

    def image_digests(self) -> list[bytes]:
        """sha256 of the bytes of each file."""
        return list(self.reader.map(self.source.digest, self.indices.tolist()))


class StreamedImages:
    """Images that are read and decoded each time that they are asked for.

    Args:
        images: The images.
        target: What the model wants to see.
        device: Where the batches go.
    """

    slow = True

    def __init__(self, images: EncodedSet, target: InputFormat, device: torch.device) -> None:
        self._images = images
        self._target = target
        self.size = target.size
        self._transform = resizing(target, images.reader.settings.crop_mode)
        self.device = device

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        chosen = torch.arange(len(self))[index if isinstance(index, slice) else index.cpu()]
        pixels = torch.empty((len(chosen), *self.size), dtype=torch.uint8)
        decoded = self._images.reader.map(self.pixels, chosen.tolist())
        for place, image in zip(pixels, decoded, strict=True):
            place.copy_(image)
        return NormalisedImages(pixels.to(self.device), self._target)[:]

    def pixels(self, index: int) -> Tensor:
        """One image, uint8 ``(channels, height, width)``.

        Raises:
            TaskError: If it cannot be decoded.
        """
        number = int(self._images.indices[index])
        source = self._images.source
        try:
            return decode(source.read(number), self.size[0], self._transform)
        except Unreadable as error:
            raise TaskError(
                f"The image {source.name(number)} cannot be read any more: {error}; bring it back "
                "and go on."
            ) from None
