"""Images in an ``.npz`` file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from glora_automl._declarations import suggest
from glora_automl.errors import TaskError
from glora_automl.tasks._images import ImageSet, Task
from glora_automl.tasks._labelled import LabelledSettings, draw_labelled

__all__ = ["NpzSettings", "load_npz"]

SPLITS = ("train", "val", "test")
Arrays = dict[str, np.ndarray]


class NpzSettings(LabelledSettings):
    """Images and labels in one ``.npz`` file, as ``numpy.savez`` writes it.

    ``x_train`` holds the images of the training split, uint8 of shape ``(n, height, width)`` or
    ``(n, height, width, channels)``, and ``y_train`` their labels ``(n,)``. ``x_val`` and
    ``x_test`` with their labels may be there; ``class_names`` may name the classes.

    Attributes:
        source: Names this kind of task.
        path: The file; relative to the working directory.
        label: Which labels are learnt: ``elevation`` are those of ``elevation_train``. Where they
            are no indices into ``class_names`` (``elevation_names``), each value is a class.
    """

    source: Literal["npz"]
    path: str
    label: str = "y"


def load_npz(settings: NpzSettings, seed: int) -> Task:
    """Load a task from an ``.npz`` file; nothing in it is unpickled.

    Raises:
        TaskError: If the file, or an array in it, is not there or not as it should be.
    """
    arrays = _read(settings)
    label = settings.label
    targets = {s: _targets(arrays, s, settings) for s in SPLITS if _has(arrays, s)}
    values = np.unique(targets["train"])
    if len(values) < 2:
        raise TaskError(
            f"task.path: {settings.path!r} must hold at least two classes, {label}_train has "
            f"{len(values)}."
        )
    labels = {}
    for split, found in targets.items():
        if len(strange := np.setdiff1d(found, values)):
            raise TaskError(
                f"task.label: each label must occur in {label}_train, {label}_{split} of "
                f"{settings.path!r} has {len(strange)} others, such as {strange[0]!s}."
            )
        labels[split] = np.searchsorted(values, found)
    own = "val" in labels and settings.takes_own_validation
    fit, validation, test = draw_labelled(
        labels["train"], settings, seed, validation=not own, test="test" not in labels
    )

    def subset(split: str, chosen: np.ndarray | None = None) -> ImageSet:
        pixels, indices = arrays[f"x_{split}"], labels[split]
        if chosen is not None:
            pixels, indices = pixels[chosen], indices[chosen]
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        return ImageSet(
            torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(indices.copy())
        )

    return Task(
        name=Path(settings.path).stem,
        classes=_names(arrays, values, label),
        fit=subset("train", fit),
        validation=subset("val") if own else subset("train", validation),
        test=subset("test") if "test" in labels else subset("train", test),
    )


def _read(settings: NpzSettings) -> Arrays:
    """All arrays that are needed, checked."""
    path, label = settings.path, settings.label
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds one array without a name")
        with loaded as file:
            wanted = [f"{key}_{split}" for split in SPLITS for key in ("x", label)]
            wanted += [_names_key(label)]
            arrays = {key: file[key] for key in wanted if key in file.files}
            known = file.files
    except OSError as error:
        raise TaskError(
            f"task.path: {path!r} cannot be read: {error.strerror or error}; relative paths begin "
            "at the working directory."
        ) from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends early"
        raise TaskError(
            f"task.path: {path!r} must be an .npz file of plain arrays: {reason}."
        ) from None
    for key in ("x_train", f"{label}_train"):
        if key not in arrays:
            raise TaskError(
                f"task.path: {path!r} must hold the array {key!r}; {suggest(key, list(known))}"
            )
    for split in SPLITS:
        if _has(arrays, split):
            _check(arrays, split, settings)
    return arrays


def _has(arrays: Arrays, split: str) -> bool:
    return f"x_{split}" in arrays


def _check(arrays: Arrays, split: str, settings: NpzSettings) -> None:
    """Refuse images or labels of a split that are not as they should be."""
    where = f"task.path: {settings.path!r}: "
    images, key = arrays[f"x_{split}"], f"{settings.label}_{split}"
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise TaskError(
            f"{where}x_{split} must be uint8 of shape (n, height, width) or (n, height, width, "
            f"channels), got {images.dtype} of shape {images.shape}."
        )
    if key not in arrays:
        raise TaskError(f"{where}the images x_{split} need labels {key!r}.")
    if arrays[key].shape != (len(images),):
        raise TaskError(
            f"{where}{key} must have one label an image, got shape {arrays[key].shape} for "
            f"{len(images)} images."
        )


def _targets(arrays: Arrays, split: str, settings: NpzSettings) -> np.ndarray:
    """Labels of a split; where classes have names, they are within their number."""
    key = f"{settings.label}_{split}"
    values = arrays[key]
    if values.dtype.kind not in "iuUSb":
        raise TaskError(
            f"task.path: {settings.path!r}: {key} must hold integers or texts, got {values.dtype}."
        )
    names = arrays.get(_names_key(settings.label))
    if names is None or values.dtype.kind not in "iu":
        return values
    if (wrong := values[(values < 0) | (values >= len(names))]).size:
        raise TaskError(
            f"task.path: {settings.path!r}: {key} must be from 0 to {len(names) - 1}, indices "
            f"into {_names_key(settings.label)}, got {wrong[0]}."
        )
    return values


def _names_key(label: str) -> str:
    return "class_names" if label == "y" else f"{label}_names"


def _names(arrays: Arrays, values: np.ndarray, label: str) -> tuple[str, ...]:
    """Names of the classes that occur."""
    names = arrays.get(_names_key(label))
    indexed = names is not None and values.dtype.kind in "iu"
    return tuple(str(names[value] if indexed else value) for value in values)  # type: ignore[index]
