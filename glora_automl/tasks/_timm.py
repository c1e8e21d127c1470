"""Data sets of timm: folders, tar files, Hugging Face data sets."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from timm.data.dataset_factory import create_dataset

from glora_automl._messages import one_line, short
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._encoded import RowImages
from glora_automl.tasks._reading import Reader
from glora_automl.tasks._settings import TimmSettings
from glora_automl.tasks._splits import Examples, encoded_task
from glora_automl.tasks._task import Task

__all__ = ["load_timm"]


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
    if not settings.name and (settings.validation_split or settings.test_split):
        raise TaskError(
            "task.validation_split and task.test_split must be left out for a .tar file, which has "
            f"no splits, got {short(settings.validation_split or settings.test_split)}. Set "
            "`task.validation_size` and `task.test_size`."
        )
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
    is_tar = not settings.name
    if is_tar and not (str(settings.path).endswith(".tar") and os.path.isfile(str(settings.path))):
        raise TaskError(
            "task.path must be a .tar file where task.name is empty, got "
            f"{short(settings.path, 100)}. For a folder, set `task.source = folder`."
        )
    if not is_tar and not settings.name.lower().startswith("hfds/"):
        raise TaskError(
            "task.name must begin with 'hfds/' or be empty for a .tar file, got "
            f"{short(settings.name)}. For others, set `task.source = folder` or "
            "`task.source = torchvision`."
        )
    # timm caches the list of a large tar file as a pickle, and reads one that lies beside it.
    extra: dict[str, Any] = {"cache_tarinfo": False} if is_tar else {}
    try:
        dataset = create_dataset(
            settings.name,
            root=settings.path,
            split=split,
            download=settings.download,
            **settings.kwargs,
            **extra,
        )
    except ImportError as error:
        raise TaskError(
            f"task.name must be a data set whose package is installed, got {short(settings.name)} "
            f"({one_line(error)[:80]}). For hfds/..., install glora-automl[huggingface]."
        ) from None
    except Exception as error:  # timm's readers raise any exception on wrong settings
        raise TaskError(
            f"task.name must be a data set that timm can read, got {short(settings.name, 40)} with "
            f"split {short(split, 30)} and path {short(settings.path)}: {one_line(error)[:60]}. "
            "Correct `task.name`, or set `task.path`."
        ) from None
    return dataset.reader


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
