"""Data sets of torchvision, by name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field
from torchvision import datasets
from torchvision.datasets import VisionDataset

from glora_automl._declarations import Bool, suggest
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._encoded import EncodedImages, FileImages, RowImages
from glora_automl.tasks._images import Task
from glora_automl.tasks._labelled import LabelledSettings
from glora_automl.tasks._reading import Reader, ReadingSettings
from glora_automl.tasks._splits import Examples, encoded_task

__all__ = ["TorchvisionSettings", "load_torchvision"]

SPLITS = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}
"""What torchvision's data sets call their splits, those to be preferred first."""


class TorchvisionSettings(LabelledSettings, ReadingSettings):
    """A data set of torchvision.

    Those of CIFAR are pickles, which torchvision reads when it has found their MD5 right.

    Attributes:
        source: Names this kind of task.
        name: Its class, such as ``Food101``, ``StanfordCars``, ``Flowers102``, ``FGVCAircraft``,
            ``OxfordIIITPet`` or ``CIFAR10``.
        path: Folder that torchvision keeps data sets in; in a recipe file a path from its folder.
        download: Whether it is downloaded if it is not there.
        kwargs: Further keyword arguments of the class.
    """

    source: Literal["torchvision"]
    name: str
    path: str
    download: Bool = False
    kwargs: dict[str, Any] = Field(default_factory=dict)


def load_torchvision(
    settings: TorchvisionSettings, seed: int, progress: Progress | None = None
) -> Task:
    """Load a task from one of torchvision's data sets.

    Raises:
        TaskError: If there is none of that name, it is not there, or it is not for classification.
    """
    made = _splits(settings)
    examples = {split: _examples(dataset, settings.name) for split, dataset in made.items()}
    names = _class_names(made["train"], examples["train"].labels)
    reader = Reader(settings, progress)
    return encoded_task(settings.name, names, examples, settings, seed, reader)


def _class(name: str) -> type[VisionDataset]:
    known = [n for n in datasets.__all__ if inspect.isclass(getattr(datasets, n))]
    if name not in known:
        raise TaskError(f"task.name: torchvision has no data set {name!r}; {suggest(name, known)}")
    return getattr(datasets, name)  # type: ignore[no-any-return]


def _splits(settings: TorchvisionSettings) -> dict[str, VisionDataset]:
    """The data set of each split that there is."""
    kind = _class(settings.name)
    signature = inspect.signature(kind).parameters
    options: dict[str, Any] = {"root": settings.path, **settings.kwargs}
    if "download" in signature:
        options["download"] = settings.download
    if "loader" in signature:
        options["loader"] = _Path  # what is in a file is looked at later
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
            f"task.name: {settings.name!r} must have a split {' or '.join(SPLITS['train'])}, it "
            "has neither; choose another data set, or lay its images out as a folder."
        )
    return found


class _NoSplit(Exception):
    """A split that a data set does not have."""


class _Path(str):
    """A file's path in the place of its image."""

    __slots__ = ()


def _make(kind: type[VisionDataset], options: dict[str, Any]) -> VisionDataset:
    try:
        return kind(**options)
    except Exception as error:  # whatever torchvision raises, the cause is in the settings
        text = str(error).strip().splitlines()
        reason = text[0] if text else type(error).__name__
        # torchvision.datasets.utils.verify_str_arg says it so.
        if isinstance(error, ValueError) and "split" in options and "for argument split" in reason:
            raise _NoSplit from None
        raise TaskError(
            f"task: torchvision cannot make {kind.__name__} from {options['root']!r}: {reason}; "
            "set task.download = true to download it, if it is not there."
        ) from None


def _examples(dataset: Any, name: str) -> Examples:
    images: EncodedImages
    targets = getattr(dataset, "targets", getattr(dataset, "labels", None))
    first = dataset[0]
    if isinstance(first[0], _Path):
        rows = [dataset[i] for i in range(len(dataset))]
        images, targets = FileImages([str(path) for path, _ in rows]), [y for _, y in rows]
    else:
        images = RowImages(dataset, name)
        if targets is None:
            targets = [dataset[i][1] for i in range(len(dataset))]
    labels = np.asarray(targets)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise TaskError(
            f"task.name: {name!r} must have one class an image, its labels are such as "
            f"{str(first[1])[:60]!r}; choose another data set."
        )
    return Examples(images, labels.astype(np.int64))


def _class_names(dataset: Any, labels: np.ndarray) -> Sequence[str]:
    count = int(labels.max()) + 1
    names = getattr(dataset, "classes", None)
    if names is None or len(names) < count:
        return [str(i) for i in range(count)]
    return [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]
