"""Whatever ``timm.data.create_dataset`` reads: folders, tar files, Hugging Face data sets."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field
from timm.data.dataset_factory import create_dataset

from glora_automl._declarations import Bool
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._encoded import RowImages
from glora_automl.tasks._images import Task
from glora_automl.tasks._labelled import LabelledSettings
from glora_automl.tasks._reading import Reader, ReadingSettings
from glora_automl.tasks._splits import Examples, encoded_task

__all__ = ["TimmSettings", "load_timm"]


class TimmSettings(LabelledSettings, ReadingSettings):
    """A data set that timm reads.

    Attributes:
        source: Names this kind of task.
        name: What ``timm.data.create_dataset`` calls it: ``hfds/...`` is a data set of the Hugging
            Face hub, or a folder of their format (needs ``glora-automl[huggingface]``), an empty
            name a folder or tar file.
        path: The folder or tar file, or where data sets are kept; in a recipe file a path
            from its folder. None is the reader's own place.
        train_split: Name of the training split.
        validation_split: Name of the split to validate on, if there is one.
        test_split: Name of the split to test on, if there is one.
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
        TaskError: If timm cannot read it, or not at random.
    """
    names = {
        "train": settings.train_split,
        "val": settings.validation_split,
        "test": settings.test_split,
    }
    readers = {split: _reader(settings, name) for split, name in names.items() if name is not None}
    examples = {
        split: Examples(RowImages(reader, f"{settings.name}/{names[split]}"), _labels(reader))
        for split, reader in readers.items()
    }
    counts = [int(found.labels.max()) + 1 for found in examples.values()]
    reader = readers["train"]
    index = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", {})
    known = {i: str(name) for name, i in index.items()}
    classes = [known.get(i, str(i)) for i in range(max([*counts, *(i + 1 for i in known)]))]
    title = settings.name or str(settings.path)
    return encoded_task(title, classes, examples, settings, seed, Reader(settings, progress))


def _reader(settings: TimmSettings, split: str) -> Any:
    """The reader of a split; it gives files that are not decoded."""
    kwargs = dict(settings.kwargs)
    if str(settings.path).endswith(".tar"):
        kwargs["cache_tarinfo"] = False  # it would be a pickle
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
            f"task.name: {settings.name!r} needs a package that is not installed ({error}); for "
            'hfds/... pip install "glora-automl[huggingface]".'
        ) from None
    except Exception as error:  # whatever its readers raise, the cause is in the settings
        text = str(error).strip().splitlines()
        reason = text[0] if text else type(error).__name__
        raise TaskError(
            f"task: timm cannot read {settings.name!r} (split {split!r}, path "
            f"{settings.path!r}): {reason}"
        ) from None
    reader = getattr(dataset, "reader", None)
    if not (hasattr(reader, "__getitem__") and hasattr(reader, "__len__")):
        raise TaskError(
            f"task.name: the images of {settings.name!r} must be there by index, to draw from "
            "them, but timm streams them; use hfds/..., a folder, or source = 'torchvision'."
        )
    return reader


def _labels(reader: Any) -> np.ndarray:
    """Class of each image, without reading the images where the reader lets it be."""
    if hasattr(reader, "iter_targets"):
        found = list(reader.iter_targets())
    elif hasattr(reader, "targets"):
        found = list(reader.targets)
    elif hasattr(reader, "samples"):
        found = [sample[1] for sample in reader.samples]
    else:
        found = [reader[i][1] for i in range(len(reader))]
    labels = np.asarray(found)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise TaskError(
            f"task: each image must have one class from 0 on, got such as {found[0]!r}; set "
            "target_key in task.kwargs."
        )
    return labels.astype(np.int64)
