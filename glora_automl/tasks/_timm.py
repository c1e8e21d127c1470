"""Data sets of timm: folders, tar files, Hugging Face data sets."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field
from timm.data.dataset_factory import create_dataset

from glora_automl._declarations import Bool
from glora_automl._messages import one_line
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._encoded import RowImages
from glora_automl.tasks._labelled import LabelledSettings
from glora_automl.tasks._reading import Reader, ReadingSettings
from glora_automl.tasks._splits import Examples, encoded_task
from glora_automl.tasks._task import Task

__all__ = ["TimmSettings", "load_timm"]


class TimmSettings(LabelledSettings, ReadingSettings):
    """Data set that ``timm.data.create_dataset`` reads.

    Attributes:
        source: Kind of task.
        name: timm's name of the data set. ``hfds/...`` is a data set of the Hugging Face hub, or a
            folder in its format (needs ``glora-automl[huggingface]``). The empty name is a folder
            or tar file.
        path: The folder or tar file, or the folder of downloads; a recipe file gives it relative
            to its own folder. None is the reader's default.
        train_split: Name of the training split.
        validation_split: Name of the validation split, if there is one.
        test_split: Name of the test split, if there is one.
        download: Whether timm downloads a missing data set.
        kwargs: Further keyword arguments, such as ``input_key`` and ``target_key``.
    """

    source: Literal["timm"]
    name: str
    path: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str | None = None
    download: Bool = False
    kwargs: dict[str, Any] = Field(default_factory=dict)


def load_timm(settings: TimmSettings, seed: int, progress: Progress | None = None) -> Task:
    """Load a task through timm's readers.

    Raises:
        TaskError: If timm cannot read the data set, or only as a stream.
    """
    names = {
        "train": settings.train_split,
        "val": settings.validation_split,
        "test": settings.test_split,
    }
    readers = {split: _reader(settings, name) for split, name in names.items() if name is not None}
    examples = {
        split: Examples(RowImages(reader, f"{settings.name}/{names[split]}"), _read_labels(reader))
        for split, reader in readers.items()
    }
    counts = [int(found.labels.max()) + 1 for found in examples.values()]
    reader = readers["train"]
    index = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", {})
    class_names = {i: str(name) for name, i in index.items()}
    n_classes = max([*counts, *(i + 1 for i in class_names)])
    classes = [class_names.get(i, str(i)) for i in range(n_classes)]
    title = settings.name or str(settings.path)
    return encoded_task(title, classes, examples, settings, seed, Reader(settings, progress))


def _reader(settings: TimmSettings, split: str) -> Any:
    """Return timm's reader of a split, which does not decode images."""
    kwargs = dict(settings.kwargs)
    if str(settings.path).endswith(".tar"):
        kwargs["cache_tarinfo"] = False  # the cache is a pickle
    try:
        dataset = create_dataset(
            settings.name,
            root=settings.path,
            split=split,
            download=settings.download,
            **kwargs,
        )
    except ImportError as error:
        raise TaskError(
            f"task.name must be a data set whose package is installed, got {settings.name!r} "
            f"({one_line(error)}). For hfds/..., install glora-automl[huggingface]."
        ) from None
    except Exception as error:  # timm's readers raise any exception on wrong settings
        raise TaskError(
            f"task.name must be a data set that timm can read, got {settings.name!r} with split "
            f"{split!r} and path {settings.path!r}: {one_line(error)}. Correct `task.name`, or set "
            "`task.path`."
        ) from None
    reader = getattr(dataset, "reader", None)
    if not (hasattr(reader, "__getitem__") and hasattr(reader, "__len__")):
        raise TaskError(
            f"task.name must be a data set with access by index, got {settings.name!r}, which timm "
            "streams. Use hfds/..., a folder, or set `task.source` to 'torchvision'."
        )
    return reader


def _read_labels(reader: Any) -> np.ndarray:
    """Return the labels, without reading images where the reader allows it."""
    if hasattr(reader, "iter_targets"):
        targets = list(reader.iter_targets())
    elif hasattr(reader, "targets"):
        targets = list(reader.targets)
    elif hasattr(reader, "samples"):
        targets = [sample[1] for sample in reader.samples]
    else:
        targets = [reader[i][1] for i in range(len(reader))]
    labels = np.asarray(targets)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise TaskError(
            f"Each image must have one class, an integer from 0, got {targets[0]!r}. "
            "Set target_key in `task.kwargs`."
        )
    return labels.astype(np.int64)
