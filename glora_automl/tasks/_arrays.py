"""The arrays of an ``.npz`` file, read and checked."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence

import numpy as np

from glora_automl._declarations import suggest
from glora_automl.errors import TaskError

__all__ = ["SPLITS", "Arrays", "names_key", "read_arrays"]

SPLITS = ("train", "val", "test")
Arrays = dict[str, np.ndarray]


def names_key(label: str) -> str:
    """The array that names labels, such as ``class_names`` or ``elevation_names``."""
    return "class_names" if label == "y" else f"{label}_names"


def read_arrays(path: str, labels: Sequence[str]) -> Arrays:
    """The arrays of the splits that are there; nothing is unpickled.

    Args:
        path: The file.
        labels: Names of the labels that are needed.

    Raises:
        TaskError: If the file, or an array in it, is not there or not as it should be.
    """
    wanted = [f"{key}_{split}" for split in SPLITS for key in ("x", "jpeg", "off", *labels)]
    wanted += [names_key(label) for label in labels]
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds one array without a name")
        with loaded as file:
            arrays = {key: file[key] for key in wanted if key in file.files}
            known = list(file.files)
    except OSError as error:
        raise TaskError(
            f"task.path: {path!r} cannot be read: {error.strerror or error}; in a recipe file it "
            "is a path from that file's folder."
        ) from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends early"
        raise TaskError(
            f"task.path: {path!r} must be an .npz file of plain arrays: {reason}."
        ) from None
    where = f"task.path: {path!r}: "
    if not {"x_train", "jpeg_train"} & set(arrays):
        raise TaskError(f"{where}the array 'x_train' is missing; {suggest('x_train', known)}")
    found = [s for s in SPLITS if {f"x_{s}", f"jpeg_{s}"} & set(arrays)]
    for split in found:
        count = _count_images(arrays, split, where)
        for label in labels:
            _check_labels(arrays, split, label, count, where, known)
    for split in set(SPLITS) - set(found):
        for label in labels:  # labels without images are none
            arrays.pop(f"{label}_{split}", None)
    return arrays


def _count_images(arrays: Arrays, split: str, where: str) -> int:
    """The number of images of a split."""
    if (images := arrays.get(f"x_{split}")) is not None:
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
            raise TaskError(
                f"{where}x_{split} must be uint8 of shape (n, height, width) or (n, height, "
                f"width, channels), got {images.dtype} of shape {images.shape}."
            )
        return len(images)
    packed, offsets = arrays[f"jpeg_{split}"], arrays.get(f"off_{split}")
    if (
        packed.dtype != np.uint8
        or packed.ndim != 1
        or offsets is None
        or offsets.ndim != 1
        or offsets.dtype.kind not in "iu"
        or len(offsets) < 2
        or offsets[0] < 0
        or offsets[-1] > len(packed)
        or (np.diff(offsets.astype(np.int64)) < 0).any()
    ):
        raise TaskError(
            f"{where}jpeg_{split} must be uint8 of shape (bytes,) and off_{split} rising integers "
            "of shape (n + 1,) within it."
        )
    return len(offsets) - 1


def _check_labels(
    arrays: Arrays, split: str, label: str, count: int, where: str, known: list[str]
) -> None:
    """Refuse labels that are not as they should be."""
    key = f"{label}_{split}"
    if (values := arrays.get(key)) is None:
        raise TaskError(
            f"{where}the images of {split!r} need labels {key!r}; {suggest(key, known)}"
        )
    if values.shape != (count,):
        raise TaskError(
            f"{where}{key} must have one label an image, got shape {values.shape} for {count} "
            "images."
        )
    if values.dtype.kind not in "iuUSb":
        raise TaskError(f"{where}{key} must hold integers or texts, got {values.dtype}.")
    names = arrays.get(names_key(label))
    if names is None or values.dtype.kind not in "iu":
        return
    if (wrong := values[(values < 0) | (values >= len(names))]).size:
        raise TaskError(
            f"{where}{key} must be from 0 to {len(names) - 1}, indices into {names_key(label)}, "
            f"got {wrong[0]}."
        )
