"""Arrays of an ``.npz`` file, read and checked."""

from __future__ import annotations

import math
import os
import sys
import zipfile
from collections.abc import Sequence

import numpy as np

from glora_automl._declarations import suggest
from glora_automl._files import open_file
from glora_automl._messages import short
from glora_automl.errors import TaskError
from glora_automl.tasks._targets import check_targets

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
    where = short(path, 100)
    if not {"x_train", "jpeg_train"} & set(arrays):
        raise TaskError(
            f"task.path must hold the array 'x_train', got {where} without it. "
            f"{suggest('x_train', keys)}"
        )
    splits = [s for s in SPLITS if {f"x_{s}", f"jpeg_{s}"} & set(arrays)]
    for split in splits:
        n_images = _count_images(arrays, split, where)
        for label in labels:
            _check_labels(arrays, split, label, n_images, where, keys)
    for split in set(SPLITS) - set(splits):
        for label in labels:  # labels without images
            arrays.pop(f"{label}_{split}", None)
    return arrays


def _load(path: str, labels: Sequence[str]) -> tuple[Arrays, list[str]]:
    """Return the required arrays of the file, and all its keys."""
    required = [f"{key}_{split}" for split in SPLITS for key in ("x", "jpeg", "off", *labels)]
    required += [names_key(label) for label in labels]
    try:
        file = open_file(os.path.expanduser(path))
    except OSError as error:
        raise TaskError(
            f"task.path must be a readable .npz file, got {short(path, 100)}: "
            f"{error.strerror or error}. Correct `task.path`; that of a recipe's file is "
            "relative to its folder."
        ) from None
    try:
        with file, zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            found = {key: members[key] for key in required if key in members}
            _check_memory(sum(info.file_size for info in found.values()))
            return {key: _read(archive, info) for key, info in found.items()}, list(members)
    except _NoArray as error:
        reason = str(error)
    except zipfile.BadZipFile:
        reason = "it is no zip file, or is altered or ends early"
    except MemoryError:
        reason = "it needs more memory than there is"
    except Exception:  # zipfile and zlib raise any exception on damaged files
        reason = "it is altered or ends early"
    raise TaskError(
        f"task.path must be an .npz file of plain arrays, got {short(path, 100)}: {reason}. Write "
        "the file with numpy.savez."
    )


class _NoArray(Exception):
    """Member that is no plain array; the message gives the reason."""


def _check_memory(n_bytes: int) -> None:
    """Refuse arrays that are larger than the memory of the machine."""
    names = getattr(os, "sysconf_names", {})
    if {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(names):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if n_bytes > memory:
            raise _NoArray(f"its arrays need {n_bytes:,} bytes, of {memory:,} bytes of memory")


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Return an array of the file; nothing is unpickled.

    The size in the header is compared with that of the member first: NumPy would allocate what the
    header declares.
    """
    name = short(info.filename)
    with archive.open(info) as member:
        try:
            version = np.lib.format.read_magic(member)
            headers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, _, dtype = headers[version](member)
        except Exception:  # the header is a Python literal of any form
            raise _NoArray(f"its member {name} is no array") from None
        if dtype.hasobject:
            raise _NoArray(f"its member {name} holds Python objects")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size != info.file_size - member.tell():
            raise _NoArray(f"its member {name} is altered or ends early")
    with archive.open(info) as member:
        array: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
    if dtype.kind == "U" and array.size and dtype.itemsize:
        codes = np.ascontiguousarray(array).reshape(-1).view(f"{dtype.byteorder}u4")
        if codes.max() > sys.maxunicode:
            raise _NoArray(f"its member {name} holds numbers that are no characters")
    return array


def _count_images(arrays: Arrays, split: str, where: str) -> int:
    """Return the number of images of a split."""
    if (images := arrays.get(f"x_{split}")) is not None:
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
            raise TaskError(
                f"x_{split} in {where} must be uint8 of shape (n, height, width) or (n, height, "
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
            f"jpeg_{split} in {where} must be uint8 of shape (bytes,) with ascending integer "
            f"offsets off_{split} of shape (n + 1,) within it, got {_describe(packed)} and "
            f"{_describe(offsets)}. Write the arrays anew."
        )
    return len(offsets) - 1


def _describe(array: np.ndarray | None) -> str:
    return "none" if array is None else f"{array.dtype} of shape {array.shape}"


def _check_labels(
    arrays: Arrays, split: str, label: str, n_images: int, where: str, keys: list[str]
) -> None:
    """Raise a TaskError for missing or malformed labels."""
    key = f"{label}_{split}"
    if (values := arrays.get(key)) is None:
        raise TaskError(
            f"task.path must hold labels {key!r} for its {split} images, got {where} without "
            f"them. {suggest(key, keys)}"
        )
    if values.shape != (n_images,):
        raise TaskError(
            f"{key} in {where} must have one label per image, got shape {values.shape} for "
            f"{n_images} images. Write one label per image."
        )
    check_targets(f"{key} in {where}", values)
    if values.dtype.kind not in "iuUSb":
        raise TaskError(
            f"{key} in {where} must hold integers or strings, got {values.dtype}. "
            "Convert the labels."
        )
    names = arrays.get(names_key(label))
    if names is None or values.dtype.kind not in "iu":
        return
    if names.ndim != 1 or names.dtype.kind not in "iuUS":
        raise TaskError(
            f"{names_key(label)} in {where} must be names of shape (n,), got "
            f"{_describe(names)}. Convert the names."
        )
    if (wrong := values[(values < 0) | (values >= len(names))]).size:
        raise TaskError(
            f"{key} in {where} must be from 0 to {len(names) - 1}, the indices of "
            f"{names_key(label)}, got {wrong[0]}. Correct the labels or the names."
        )
