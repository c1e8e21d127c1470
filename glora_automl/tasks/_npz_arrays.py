"""Arrays of an ``.npz`` file, read and checked."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence

import numpy as np

from glora_automl._declarations import suggest
from glora_automl._messages import one_line
from glora_automl.errors import TaskError

__all__ = ["SPLITS", "Arrays", "names_key", "read_arrays"]

SPLITS = ("train", "val", "test")
Arrays = dict[str, np.ndarray]


def names_key(label: str) -> str:
    """Return the key of the label names, such as ``class_names`` or ``elevation_names``."""
    return "class_names" if label == "y" else f"{label}_names"


def read_arrays(path: str, labels: Sequence[str]) -> Arrays:
    """Read the arrays of all splits in the file; nothing is unpickled.

    Args:
        path: The file.
        labels: Keys of the required labels, without split.

    Raises:
        TaskError: If the file or an array in it is missing or malformed.
    """
    arrays, keys = _load(path, labels)
    if not {"x_train", "jpeg_train"} & set(arrays):
        raise TaskError(
            f"task.path must hold the array 'x_train', got {path!r} without it. "
            f"{suggest('x_train', keys)}"
        )
    splits = [s for s in SPLITS if {f"x_{s}", f"jpeg_{s}"} & set(arrays)]
    for split in splits:
        n_images = _count_images(arrays, split, path)
        for label in labels:
            _check_labels(arrays, split, label, n_images, path, keys)
    for split in set(SPLITS) - set(splits):
        for label in labels:  # labels without images
            arrays.pop(f"{label}_{split}", None)
    return arrays


def _load(path: str, labels: Sequence[str]) -> tuple[Arrays, list[str]]:
    """Return the required arrays of the file, and all its keys."""
    required = [f"{key}_{split}" for split in SPLITS for key in ("x", "jpeg", "off", *labels)]
    required += [names_key(label) for label in labels]
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds one array without a name")
        with loaded as file:
            return {key: file[key] for key in required if key in file.files}, list(file.files)
    except OSError as error:
        raise TaskError(
            f"task.path must be a readable .npz file, got {path!r}: {error.strerror or error}. "
            "Set `task.path` relative to the recipe's folder."
        ) from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = one_line(error) if str(error) else "it ends early"
        if "allow_pickle" in reason:  # NumPy's advice, which this project must not follow
            objects = "Object arrays" in reason
            reason = "it holds Python objects" if objects else "it is altered or ends early"
        raise TaskError(
            f"task.path must be an .npz file of plain arrays, got {path!r}: {reason}. "
            "Write the file with numpy.savez."
        ) from None


def _count_images(arrays: Arrays, split: str, path: str) -> int:
    """Return the number of images of a split."""
    if (images := arrays.get(f"x_{split}")) is not None:
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
            raise TaskError(
                f"x_{split} in {path!r} must be uint8 of shape (n, height, width) or (n, height, "
                f"width, channels), got {images.dtype} of shape {images.shape}. "
                "Convert the images."
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
            f"jpeg_{split} in {path!r} must be uint8 of shape (bytes,) with ascending integer "
            f"offsets off_{split} of shape (n + 1,) within it, got {_describe(packed)} and "
            f"{_describe(offsets)}. Write the arrays anew."
        )
    return len(offsets) - 1


def _describe(array: np.ndarray | None) -> str:
    return "none" if array is None else f"{array.dtype} of shape {array.shape}"


def _check_labels(
    arrays: Arrays, split: str, label: str, n_images: int, path: str, keys: list[str]
) -> None:
    """Raise a TaskError for missing or malformed labels."""
    key = f"{label}_{split}"
    if (values := arrays.get(key)) is None:
        raise TaskError(
            f"task.path must hold labels {key!r} for its {split} images, got {path!r} without "
            f"them. {suggest(key, keys)}"
        )
    if values.shape != (n_images,):
        raise TaskError(
            f"{key} in {path!r} must have one label per image, got shape {values.shape} for "
            f"{n_images} images. Write one label per image."
        )
    if values.dtype.kind not in "iuUSb":
        raise TaskError(
            f"{key} in {path!r} must hold integers or strings, got {values.dtype}. "
            "Convert the labels."
        )
    names = arrays.get(names_key(label))
    if names is None or values.dtype.kind not in "iu":
        return
    if (wrong := values[(values < 0) | (values >= len(names))]).size:
        raise TaskError(
            f"{key} in {path!r} must be from 0 to {len(names) - 1}, the indices of "
            f"{names_key(label)}, got {wrong[0]}. Correct the labels or the names."
        )
