"""Data sets of torchvision."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from torchvision import datasets
from torchvision.datasets import VisionDataset

from glora_automl._declarations import suggest
from glora_automl._messages import one_line, short
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._encoded import EncodedImages, FileImages, RowImages
from glora_automl.tasks._reading import Reader
from glora_automl.tasks._settings import TorchvisionSettings
from glora_automl.tasks._splits import Examples, encoded_task
from glora_automl.tasks._task import Task

__all__ = ["load_torchvision"]

SPLITS = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}
"""Names of the splits in torchvision's data sets, in order of preference."""

REFUSED = {
    "ImageFolder",  # the source "folder" does more, and follows no link in circles
    "DatasetFolder",
    "LSUN",  # reads a pickle from its folder
    "LSUNClass",
}
"""Classes that are not used."""


def load_torchvision(
    settings: TorchvisionSettings, seed: int, progress: Progress | None = None
) -> Task:
    """Load a task from a data set of torchvision.

    Raises:
        TaskError: If the data set is unknown or missing, or has no classes.
    """
    splits = _splits(settings)
    examples = {split: _examples(dataset, settings.name) for split, dataset in splits.items()}
    names = _class_names(splits["train"], examples["train"].labels)
    reader = Reader(settings, progress)
    return encoded_task(settings.name, names, examples, settings, seed, reader)


def _class(name: str) -> type[VisionDataset]:
    known = [
        n for n in datasets.__all__ if inspect.isclass(getattr(datasets, n)) and n not in REFUSED
    ]
    if name not in known:
        raise TaskError(
            f"task.name must be a data set of torchvision, got {short(name)}. "
            f"{suggest(name[:60], known)[:120]} For a folder, set `task.source = folder`."
        )
    return getattr(datasets, name)  # type: ignore[no-any-return]


def _splits(settings: TorchvisionSettings) -> dict[str, VisionDataset]:
    """Return the data set per existing split."""
    kind = _class(settings.name)
    signature = inspect.signature(kind).parameters
    options: dict[str, Any] = {"root": settings.path, **settings.kwargs}
    if "download" in signature:
        options["download"] = settings.download
    if "loader" in signature:
        options["loader"] = _Path  # files are decoded later
    if "train" in signature:
        return {"train": _make(kind, {**options, "train": True}),
                "test": _make(kind, {**options, "train": False})}  # fmt: skip
    if "split" not in signature:
        return {"train": _make(kind, options)}
    found = {}
    for split, names in SPLITS.items():
        for name in names:
            try:
                found[split] = _make(kind, {**options, "split": name})
                break
            except _NoSplit:
                continue
    if "train" not in found:
        raise TaskError(
            f"task.name must be a data set with a split {' or '.join(SPLITS['train'])}, got "
            f"{settings.name!r}. Choose another `task.name`, or set `task.source = folder`."
        )
    return found


class _NoSplit(Exception):
    """Split that a data set does not have."""


class _Path(str):
    """Path of a file instead of its image."""

    __slots__ = ()


def _make(kind: type[VisionDataset], options: dict[str, Any]) -> VisionDataset:
    try:
        return kind(**options)
    except Exception as error:  # torchvision raises any exception on wrong settings
        # The message of torchvision.datasets.utils.verify_str_arg.
        is_no_split = isinstance(error, ValueError) and "for argument split" in str(error)
        if is_no_split and "split" in options:
            raise _NoSplit from None
        raise TaskError(
            f"task.name must be a data set that torchvision can read, got {kind.__name__} in "
            f"{short(options['root'], 80)}: {one_line(error)[:80]}. Set "
            "`task.download = true` for a missing data set."
        ) from None


def _examples(dataset: Any, name: str) -> Examples:
    try:
        images, targets = _rows(dataset, name)
        labels = np.asarray(targets)
    except Exception as error:  # a data set reads its files in its own way
        raise TaskError(
            f"task.name must be a data set that torchvision can read, got {name!r}: "
            f"{one_line(error)[:100]}. Restore its files, or set `task.download = true`."
        ) from None
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise TaskError(
            f"task.name must be a data set with one class per image, got {name!r} with labels such "
            f"as {str(targets[0])[:60]!r}. Choose another `task.name`."
        )
    return Examples(images, labels.astype(np.int64))


def _rows(dataset: Any, name: str) -> tuple[EncodedImages, Sequence[Any]]:
    """Return the images of a data set and their labels."""
    targets = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if isinstance(dataset[0][0], _Path):
        rows = [dataset[i] for i in range(len(dataset))]
        return FileImages([str(path) for path, _ in rows]), [label for _, label in rows]
    if targets is None:
        targets = [dataset[i][1] for i in range(len(dataset))]
    return RowImages(dataset, name), targets


def _class_names(dataset: Any, labels: np.ndarray) -> Sequence[str]:
    count = int(labels.max()) + 1
    names = getattr(dataset, "classes", None)
    if names is None or len(names) < count:
        return [str(i) for i in range(count)]
    return [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]
