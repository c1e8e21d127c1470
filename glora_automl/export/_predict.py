"""Class probabilities of images."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glora_automl._files import user_path
from glora_automl._messages import one_line, short
from glora_automl.errors import ExportError
from glora_automl.export._open import LoadedExport, open_export
from glora_automl.export._record import Record
from glora_automl.pipeline import resolve_device
from glora_automl.progress import Progress
from glora_automl.tasks import (
    NormalizedImages,
    Reader,
    ReadingSettings,
    Unreadable,
    decode,
    find_images,
    read_image,
    resizing,
)
from glora_automl.training import batches

__all__ = ["Predictions", "predict"]


MAX_BATCH = 1_000_000
"""Largest number of images per forward pass, and of classes per image."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of an export.

    Attributes:
        record: Record of the export.
        files: Image files, ``n``.
        classes: Indices of the most likely classes, in descending order, ``(n, k)``.
        probabilities: Their probabilities, ``(n, k)``.
        unreadable: Reasons of the images that cannot be decoded, by file.
        seconds: Wall time of reading and inference, without that of loading the export.
    """

    record: Record
    files: tuple[str, ...]
    classes: Tensor
    probabilities: Tensor
    unreadable: dict[str, str]
    seconds: float

    def best(self) -> list[tuple[str, list[tuple[str, float]]]]:
        """Return for each file the most likely classes and their probabilities, in order."""
        names = self.record.classes
        return [
            (file, [(names[i], p) for i, p in zip(indices, probabilities, strict=True)])
            for file, indices, probabilities in zip(
                self.files, self.classes.tolist(), self.probabilities.tolist(), strict=True
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "images": [
                {
                    "file": file,
                    "classes": [{"class": name, "probability": round(p, 6)} for name, p in best],
                }
                for file, best in self.best()
            ],
            "unreadable": self.unreadable,
            "seconds": round(self.seconds, 4),
            "images_per_second": round(len(self.files) / max(self.seconds, 1e-9), 2),
        }


def predict(
    path: str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    top: int = 1,
    backbone: str | None = None,
    device: str = "auto",
    batch_size: int = 64,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """Predict the classes of images with an export of any kind but ``backbone``.

    The images are resized and normalised as in the study.

    Args:
        path: Folder of the export.
        images: Image files, or folders with image files.
        top: Number of most likely classes per image.
        backbone: Weights of an adapter's backbone: a file, or a ``backbone`` export. None lets
            timm download them.
        device: ``auto``, or a device that torch knows.
        batch_size: Images per forward pass.
        num_workers: Threads that read images. None is one per processor, at most 16.
        progress: Display of long work.

    Raises:
        ExportError: If the folder is no export, a file is altered, the backbone is missing or
            another one, or no image can be decoded.
        TaskError: If the device is missing or the backbone cannot be read.
    """
    target = resolve_device(device)
    for argument, value in (("top", top), ("batch_size", batch_size)):
        if not 1 <= value <= MAX_BATCH:
            raise ExportError(
                f"`{argument}` must be from 1 to {MAX_BATCH:,}, got {short(value)}. Correct "
                f"`{argument}`."
            )
    files = _find_files([images] if isinstance(images, str | Path) else images)
    folder = user_path(path, "path", ExportError)
    export = open_export(folder, backbone=backbone, device=target)
    return _predict(export, files, top, batch_size, num_workers, progress or Progress())


def _find_files(images: Iterable[str | Path]) -> list[str]:
    """Return the image files, those of a folder in order.

    Raises:
        ExportError: If there is none.
    """
    files: list[str] = []
    for path in (user_path(image, "images", ExportError) for image in images):
        if path.is_dir():
            found = find_images(path)
            if not found:
                raise ExportError(
                    "Folders of `images` must contain images (.jpg, .png, ...), got "
                    f"{short(str(path), 100)} without any. Choose another folder."
                )
            files += found
        elif path.exists():
            files.append(str(path))
        else:
            raise ExportError(
                f"`images` must be existing files or folders, got {str(path)!r}. Check the path."
            )
    if not files:
        raise ExportError("`images` must be at least one file or folder, got none. Add one.")
    return files


class _ImageFiles:
    """Image files as normalised batches of the images that can be decoded.

    Args:
        files: The files.
        export: The export, whose preprocessing is used.
        num_workers: Threads that read.
    """

    slow = True

    def __init__(self, files: Sequence[str], export: LoadedExport, num_workers: int | None) -> None:
        preprocessing = export.record.preprocessing
        self.device = export.device
        self.read: list[str] = []
        self.unreadable: dict[str, str] = {}
        self._files = files
        self._format = preprocessing.format
        self._value_range = preprocessing.value_range
        self._transform = resizing(preprocessing.format, preprocessing.crop_mode)
        self._reader = Reader(ReadingSettings(num_workers=num_workers))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        assert isinstance(index, slice)
        files = self._files[index]
        images = list(self._reader.map(lambda i: self._decode(files[i]), range(len(files))))
        pixels = []
        for file, image in zip(files, images, strict=True):
            if isinstance(image, str):
                self.unreadable[file] = image
            else:
                self.read.append(file)
                pixels.append(image)
        if not pixels:
            return torch.empty((0, *self._format.size), device=self.device)
        return NormalizedImages(torch.stack(pixels).to(self.device), self._format)[:]

    def _decode(self, file: str) -> Tensor | str:
        """Return the image, uint8 ``(channels, height, width)``, or the reason of a failure."""
        try:
            channels = self._format.size[0]
            return decode(read_image(file), channels, self._transform, self._value_range)
        except Unreadable as error:
            return str(error)


def _logits(export: LoadedExport, batch: Tensor) -> Tensor:
    """Return the logits of a batch.

    Raises:
        ExportError: If the model cannot take images as its record describes them.
    """
    n_classes = len(export.record.classes)
    try:
        logits = export.logits(batch).float()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # models raise any exception on a wrong size
        raise ExportError(
            f"The model must take images of {' x '.join(map(str, batch.shape[1:]))}, as its record "
            f"has it, but it fails: {one_line(error)}. Export again."
        ) from error
    if logits.shape != (len(batch), n_classes):
        raise ExportError(
            f"The model must have one output for each of its {n_classes} classes, got "
            f"{tuple(logits.shape[1:])}. Export again."
        )
    return logits


@torch.inference_mode()
def _predict(
    export: LoadedExport,
    files: Sequence[str],
    top: int,
    batch_size: int,
    num_workers: int | None,
    progress: Progress,
) -> Predictions:
    top = min(top, len(export.record.classes))
    images = _ImageFiles(files, export, num_workers)
    parts = [slice(start, start + batch_size) for start in range(0, len(files), batch_size)]
    found = []
    begin = time.perf_counter()
    with progress.stage("Predict", len(files), "images") as advance:
        for part, batch in zip(parts, batches(images, parts), strict=True):
            if len(batch):
                likely = _logits(export, batch).softmax(1).topk(top)
                found.append((likely.values.cpu(), likely.indices.cpu()))
            advance(len(files[part]))
    seconds = time.perf_counter() - begin
    if not found:
        file, reason = next(iter(images.unreadable.items()))
        raise ExportError(
            f"`images` must contain a readable image, got {len(files)} unreadable: {file} "
            f"({reason}){', ...' if len(files) > 1 else ''}. Choose other images."
        )
    probabilities, classes = (torch.cat(part) for part in zip(*found, strict=True))
    return Predictions(
        export.record, tuple(images.read), classes, probabilities, images.unreadable, seconds
    )
