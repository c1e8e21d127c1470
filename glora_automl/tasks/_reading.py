"""Reading of encoded images: decoded into memory if they fit, streamed otherwise."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from glora_automl._messages import short
from glora_automl.errors import TaskError
from glora_automl.progress import Advance, Progress
from glora_automl.tasks._decoding import (
    Picture,
    Unreadable,
    check_channels,
    decode,
    inspect,
    resizing,
)
from glora_automl.tasks._encoded import EncodedImages
from glora_automl.tasks._images import MAX_NORMALIZED_BYTES, Images, InputFormat, NormalizedImages
from glora_automl.tasks._settings import ReadingSettings
from glora_automl.training import ImageBatches

__all__ = ["EncodedSet", "Reader", "ReadingSettings"]

T = TypeVar("T")
MIN_PROGRESS_IMAGES = 1000
"""Number of images from which reading shows progress."""


class Reader:
    """Threads and memory budget, shared by the image sets of a task.

    Args:
        settings: Settings for reading image files.
        progress: Display of long reads.
    """

    def __init__(self, settings: ReadingSettings, progress: Progress | None = None) -> None:
        self.settings = settings
        self.progress = progress or Progress()
        self.num_workers = settings.num_workers or min(16, _available_processors())
        self._free_bytes = int(settings.memory)
        self._lock = threading.Lock()

    def stage(self, title: str, n_images: int) -> AbstractContextManager[Advance]:
        """Show the progress of reading, except for few images."""
        progress = self.progress if n_images >= MIN_PROGRESS_IMAGES else Progress()
        return progress.stage(title, n_images, "images")

    def reserve(self, n_bytes: int) -> bool:
        """Reserve memory and return True, or return False if too little is free."""
        with self._lock:
            fits = n_bytes <= self._free_bytes
            self._free_bytes -= n_bytes if fits else 0
        return fits

    def release(self, n_bytes: int) -> None:
        """Release reserved memory."""
        with self._lock:
            self._free_bytes += n_bytes

    def map(self, function: Callable[[int], T], indices: Iterable[int]) -> Iterator[T]:
        """Yield the function's values in order, computed by all threads in chunks."""
        size = 8 * self.num_workers
        pending = list(indices)
        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="images") as pool:
            for start in range(0, len(pending), size):
                yield from pool.map(function, pending[start : start + size])

    def readable(self, sets: Sequence[tuple[EncodedImages, np.ndarray]]) -> list[np.ndarray]:
        """Decode each image once and keep its digests.

        Args:
            sets: Image sources with indices ``(n,)``.

        Returns:
            Mask of decodable images ``(n,)`` per set.

        Raises:
            TaskError: If an image cannot be decoded and ``unreadable`` is ``refuse``.
        """
        places = [(source, int(index)) for source, indices in sets for index in indices]
        unknown = [i for i, (source, index) in enumerate(places) if index not in source.pictures]

        def check(place: int) -> str | None:
            source, index = places[place]
            try:
                encoded = source.read(index)
                picture = inspect(encoded, self.settings.value_range)
            except Unreadable as error:
                return str(error)
            source.digest(index, encoded)
            source.pictures[index] = picture
            return None

        reasons: list[str | None] = [None] * len(places)
        with self.stage("Check images", len(unknown)) as advance:
            for place, reason in zip(unknown, self.map(check, unknown), strict=True):
                reasons[place] = reason
                advance(1)
        bad = [(*place, why) for place, why in zip(places, reasons, strict=True) if why]
        if bad:
            source, index, why = bad[0]
            listed = f"{short(source.name(index), 90)[1:-1]} ({why[:60]})"
            listed += ", ..." if len(bad) > 1 else ""
            count = f"{len(bad)} of {len(places)}"
            if self.settings.unreadable == "refuse":
                raise TaskError(
                    f"The images must be readable, got {count} unreadable: {listed}. Replace them, "
                    "or set `task.unreadable = skip`."
                )
            self.progress.log(f"Skipped {count} images, which are unreadable: {listed}.")
        mask = np.array([why is None for why in reasons], dtype=bool)
        return np.split(mask, np.cumsum([len(indices) for _, indices in sets])[:-1])


def _available_processors() -> int:
    """Return the processors of this process; a cluster job has fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class EncodedSet(Images):
    """Encoded images with labels, decoded on demand.

    Args:
        source: Source of the images.
        indices: Indices into the source, ``(n,)``.
        labels: int64, ``(n,)``.
        reader: Threads and memory budget.
    """

    def __init__(
        self, source: EncodedImages, indices: np.ndarray, labels: Tensor, reader: Reader
    ) -> None:
        self.source = source
        self.indices = indices
        self.labels = labels
        self.reader = reader

    def subset(self, indices: Tensor) -> EncodedSet:
        """Return the images at ``indices`` ``(m,)``."""
        return EncodedSet(
            self.source, self.indices[indices.numpy()], self.labels[indices], self.reader
        )

    def prepare(self, target: InputFormat, device: torch.device) -> tuple[ImageBatches, Tensor]:
        """Return normalised images in the format ``target`` and labels, on ``device``.

        The images are decoded once if all of them fit the free memory, otherwise with each batch.
        The batches are the same.

        Raises:
            TaskError: If an image can no longer be decoded, or the model takes neither 1 nor 3
                channels.
        """
        check_channels(target)
        streamed = StreamedImages(self, target, device)
        n_bytes = len(self) * int(np.prod(target.size))
        labels = self.labels.to(device)
        prepared: ImageBatches
        if 4 * n_bytes <= MAX_NORMALIZED_BYTES and self.reader.reserve(4 * n_bytes):
            n_bytes *= 4  # kept as float32
            prepared = NormalizedImages(self._pixels(streamed).to(device), target)[:]
        elif self.reader.reserve(n_bytes):
            prepared = NormalizedImages(self._pixels(streamed).to(device), target)
        else:
            return streamed, labels
        weakref.finalize(prepared, self.reader.release, n_bytes)
        return prepared, labels

    def _pixels(self, streamed: StreamedImages) -> Tensor:
        """Return all images, uint8 ``(n, channels, height, width)``."""
        pixels = torch.empty((len(self), *streamed.size), dtype=torch.uint8)
        with self.reader.stage("Read images", len(self)) as advance:
            decoded = self.reader.map(streamed.pixels, range(len(self)))
            for place, image in zip(pixels, decoded, strict=True):
                place.copy_(image)
                advance(1)
        return pixels

    def digest(self) -> str:
        """Return the sha256 of the files' bytes and the labels."""
        value = hashlib.sha256(f"files {len(self)}".encode())
        value.update(b"".join(self.reader.map(self.source.digest, self.indices.tolist())))
        value.update(self.labels.numpy().tobytes())
        return value.hexdigest()

    def image_digests(self) -> list[bytes]:
        """Return the sha256 of each image's decoded pixels.

        Raises:
            TaskError: If an image cannot be decoded.
        """
        return [picture.digest for picture in self._pictures()]

    def peaks(self) -> np.ndarray:
        """Return the largest value of each image's pixels."""
        return np.array([picture.peak for picture in self._pictures()], dtype=np.int64)

    def _pictures(self) -> list[Picture]:
        self.reader.readable([(self.source, self.indices)])
        return [self.source.pictures[index] for index in self.indices.tolist()]


class StreamedImages:
    """Images that are read and decoded on each access.

    Args:
        images: The images.
        target: Input format of the model.
        device: Device of the batches.
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
        indices = torch.arange(len(self))[index if isinstance(index, slice) else index.cpu()]
        pixels = torch.empty((len(indices), *self.size), dtype=torch.uint8)
        decoded = self._images.reader.map(self.pixels, indices.tolist())
        for place, image in zip(pixels, decoded, strict=True):
            place.copy_(image)
        return NormalizedImages(pixels.to(self.device), self._target)[:]

    def pixels(self, index: int) -> Tensor:
        """Return one image, uint8 ``(channels, height, width)``.

        Raises:
            TaskError: If the image cannot be decoded.
        """
        source_index = int(self._images.indices[index])
        source = self._images.source
        try:
            settings = self._images.reader.settings
            encoded = source.read(source_index)
            return decode(encoded, self.size[0], self._transform, settings.value_range)
        except Unreadable as error:
            raise TaskError(
                f"The image {short(source.name(source_index), 120)[1:-1]} must stay readable "
                f"during a study, got: {error}. Restore the file and resume the study."
            ) from None
