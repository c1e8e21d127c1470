"""Class probabilities of new images."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from glora_automl.errors import ExportError
from glora_automl.export._open import Opened, open_export
from glora_automl.export._record import Record
from glora_automl.pipeline import resolve_device
from glora_automl.progress import Progress
from glora_automl.tasks import (
    NormalisedImages,
    Reader,
    ReadingSettings,
    Unreadable,
    decode,
    resizing,
)
from glora_automl.training import batches

__all__ = ["Applied", "apply"]


@dataclass(frozen=True, eq=False)
class Applied:
    """What an export says of images.

    Attributes:
        record: The export.
        files: Images that were read, ``n``.
        classes: Indices of the most likely classes, most likely first, ``(n, k)``.
        probabilities: Theirs, ``(n, k)``.
        unreadable: Why others cannot be decoded, by file.
        seconds: Wall time of reading and computing, without that of loading the export.
    """

    record: Record
    files: tuple[str, ...]
    classes: Tensor
    probabilities: Tensor
    unreadable: dict[str, str]
    seconds: float

    def best(self) -> list[tuple[str, list[tuple[str, float]]]]:
        """For each image its most likely classes and their probabilities, most likely first."""
        names = self.record.classes
        return [
            (file, [(names[i], p) for i, p in zip(row, of_row, strict=True)])
            for file, row, of_row in zip(
                self.files, self.classes.tolist(), self.probabilities.tolist(), strict=True
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
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


def apply(
    path: str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    top: int = 1,
    backbone: str | None = None,
    device: str = "auto",
    batch_size: int = 64,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Applied:
    """Classify images with any export but a backbone alone.

    They are brought to the model's size and normalised as the export says that the study has done.

    Args:
        path: The export.
        images: Files, or folders that are searched for them.
        top: Most likely classes to tell of each image.
        backbone: Weights that an adapter is put on, if timm does not download them: a file, or
            what ``glora export --to backbone`` wrote.
        device: As for :func:`glora_automl.search`.
        batch_size: Images a forward pass.
        workers: Threads that read; None is one a processor, at most 16.
        progress: Shows how far it is.

    Raises:
        ExportError: If the export is none, altered or cut short, its backbone is another one or
            missing, there is no image, or none that can be decoded.
        TaskError: If the device or the backbone cannot be had.
    """
    target = resolve_device(device)
    for option, value in (("--top", top), ("--batch-size", batch_size)):
        if value < 1:
            raise ExportError(f"{option} must be at least 1, got {value}.")
    files = _files([images] if isinstance(images, str | Path) else images)
    opened = open_export(Path(path), backbone=backbone, device=target)
    return _apply(opened, files, top, batch_size, workers, progress or Progress())


def _files(images: Iterable[str | Path]) -> list[str]:
    """The files that are meant, those of a folder in order.

    Raises:
        ExportError: If there is nothing.
    """
    files: list[str] = []
    for place in map(Path, images):
        if place.is_dir():
            inside = (file for file in place.rglob("*") if file.suffix.lower() in IMG_EXTENSIONS)
            found = sorted(str(file) for file in inside if not file.name.startswith("."))
            if not found:
                raise ExportError(
                    f"The folder {str(place)!r} must hold images ({', '.join(IMG_EXTENSIONS)}), it "
                    "holds none."
                )
            files += found
        elif place.exists():
            files.append(str(place))
        else:
            raise ExportError(f"Images must be files or folders, {str(place)!r} is not there.")
    if not files:
        raise ExportError("Images must be given: a folder, or files; got none.")
    return files


class _Incoming:
    """Image files that become normalised batches of those that can be decoded.

    Args:
        files: The files.
        opened: What is to see them.
        workers: Threads that read.
    """

    slow = True

    def __init__(self, files: Sequence[str], opened: Opened, workers: int | None) -> None:
        seen = opened.record.preprocessing
        self.device = opened.device
        self.read: list[str] = []
        self.unreadable: dict[str, str] = {}
        self._files = files
        self._format = seen.format
        self._transform = resizing(seen.format, seen.resize)
        self._reader = Reader(ReadingSettings(num_workers=workers))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        assert isinstance(index, slice)
        files = self._files[index]
        found = list(self._reader.map(lambda place: self._decode(files[place]), range(len(files))))
        pixels = []
        for file, image in zip(files, found, strict=True):
            if isinstance(image, str):
                self.unreadable[file] = image
            else:
                self.read.append(file)
                pixels.append(image)
        if not pixels:
            return torch.empty((0, *self._format.size), device=self.device)
        return NormalisedImages(torch.stack(pixels).to(self.device), self._format)[:]

    def _decode(self, file: str) -> Tensor | str:
        """The image, uint8 ``(channels, height, width)``, or why there is none."""
        try:
            return decode(Path(file).read_bytes(), self._format.size[0], self._transform)
        except OSError as error:
            return error.strerror or str(error)
        except Unreadable as error:
            return str(error)


@torch.inference_mode()
def _apply(
    opened: Opened,
    files: Sequence[str],
    top: int,
    batch_size: int,
    workers: int | None,
    progress: Progress,
) -> Applied:
    top = min(top, len(opened.record.classes))
    incoming = _Incoming(files, opened, workers)
    parts = [slice(start, start + batch_size) for start in range(0, len(files), batch_size)]
    found = []
    begin = time.perf_counter()
    with progress.stage("Classify images", len(files), "images") as advance:
        for part, batch in zip(parts, batches(incoming, parts), strict=True):
            if len(batch):
                likely = opened.logits(batch).float().softmax(1).topk(top)
                found.append((likely.values.cpu(), likely.indices.cpu()))
            advance(len(files[part]))
    seconds = time.perf_counter() - begin
    if not found:
        file, why = next(iter(incoming.unreadable.items()))
        raise ExportError(
            f"At least one of {len(files)} images must be readable, none is: {file} ({why})"
            f"{', ...' if len(files) > 1 else ''}."
        )
    probabilities, classes = (torch.cat(part) for part in zip(*found, strict=True))
    return Applied(
        opened.record, tuple(incoming.read), classes, probabilities, incoming.unreadable, seconds
    )
