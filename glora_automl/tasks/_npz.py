"""Images in an ``.npz`` file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from glora_automl._declarations import suggest
from glora_automl._messages import short
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._encoded import PackedImages
from glora_automl.tasks._images import Images, ImageSet
from glora_automl.tasks._npz_arrays import SPLITS, Arrays, names_key, read_arrays
from glora_automl.tasks._reading import Reader
from glora_automl.tasks._settings import NpzSettings
from glora_automl.tasks._splits import (
    Examples,
    check_classes,
    check_images,
    encoded_sets,
    split_task,
)
from glora_automl.tasks._task import Domain, Task

__all__ = ["load_npz"]


def load_npz(settings: NpzSettings, seed: int, progress: Progress | None = None) -> Task:
    """Load a task from an ``.npz`` file; nothing is unpickled.

    Raises:
        TaskError: If the file or an array in it is missing or malformed.
    """
    keys = [settings.label] + (["domain"] if settings.domain is not None else [])
    arrays = read_arrays(settings.path, keys)
    if settings.only is not None:
        arrays = _as_train(arrays, settings.only, settings.path)
    splits = [s for s in SPLITS if f"{settings.label}_{s}" in arrays]
    own = {split: np.arange(len(arrays[f"{settings.label}_{split}"])) for split in splits}
    others: dict[str, dict[str, np.ndarray]] = {}
    if settings.domain is not None:
        others = _by_domain(arrays, splits, settings)
        own = others.pop(settings.domain)
    values = np.unique(arrays[f"{settings.label}_train"][own["train"]])
    names = _names(arrays, values, settings.label)
    check_classes(Path(settings.path).stem, names)
    labels = {split: _class_indices(arrays, split, values, settings) for split in splits}
    images = _NpzImages(arrays, labels, settings, Reader(settings, progress))
    task = split_task(
        Path(settings.path).stem,
        names,
        {split: images.select(split, indices) for split, indices in own.items()},
        settings,
        seed,
    )
    domains = {name: Domain(images.join(indices)) for name, indices in others.items()}
    return check_images(replace(task, domains=domains))


def _as_train(arrays: Arrays, split: str, path: str) -> Arrays:
    """Return the arrays of one split, renamed to the training split."""
    ends = tuple(f"_{other}" for other in SPLITS)
    shared = {key: value for key, value in arrays.items() if not key.endswith(ends)}
    own = {key: value for key, value in arrays.items() if key.endswith(f"_{split}")}
    if not own:
        raise TaskError(
            f"task.only must be a split in {short(path, 100)}, got {split!r} without "
            f"{f'x_{split}'!r}. Remove `task.only` or choose another split."
        )
    return shared | {f"{key.removesuffix(split)}train": value for key, value in own.items()}


class _NpzImages:
    """Image sets of an ``.npz`` file."""

    def __init__(
        self, arrays: Arrays, labels: Arrays, settings: NpzSettings, reader: Reader
    ) -> None:
        self._arrays = arrays
        self._labels = labels
        self._packed: dict[str, Images] = {}
        packed = {
            split: Examples(
                PackedImages(
                    arrays[f"jpeg_{split}"], arrays[f"off_{split}"], f"{settings.path}:{split}"
                ),
                labels[split],
            )
            for split in labels
            if f"x_{split}" not in arrays
        }
        if packed:
            self._packed = encoded_sets(packed, reader)
        elif settings.crop_mode != "squash":
            raise TaskError(
                f"task.crop_mode must be 'squash' for arrays of one size, as in "
                f"{short(settings.path, 100)}, got {settings.crop_mode!r}. Remove `task.crop_mode`."
            )

    def select(self, split: str, indices: np.ndarray) -> Images:
        """Return the images of a split at ``indices``."""
        if split in self._packed:
            return self._packed[split]
        pixels = self._arrays[f"x_{split}"][indices]
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        return ImageSet(
            torch.from_numpy(np.ascontiguousarray(pixels)),
            torch.from_numpy(self._labels[split][indices]),
        )

    def join(self, indices: dict[str, np.ndarray]) -> ImageSet:
        """Return the images at the indices of all splits as one set."""
        parts = [self.select(split, chosen) for split, chosen in indices.items()]
        sets = [part for part in parts if isinstance(part, ImageSet)]
        return ImageSet(
            torch.cat([part.images for part in sets]), torch.cat([part.labels for part in sets])
        )


def _by_domain(
    arrays: Arrays, splits: list[str], settings: NpzSettings
) -> dict[str, dict[str, np.ndarray]]:
    """Return the image indices per domain and split."""
    if "x_train" not in arrays:
        raise TaskError(
            f"task.domain must be unset for packed image files, as in {short(settings.path, 100)}, "
            f"got {settings.domain!r}. Remove `task.domain`, or store the images as x_train."
        )
    found: dict[str, dict[str, np.ndarray]] = {}
    for split in splits:
        domains = arrays[f"domain_{split}"]
        for value in np.unique(domains):
            (name,) = _names(arrays, np.array([value]), "domain")
            found.setdefault(name, {})[split] = np.flatnonzero(domains == value)
    known = [name for name in found if "train" in found[name]]
    if settings.domain not in known:
        raise TaskError(
            f"task.domain must be a domain with train images in {short(settings.path, 100)}, got "
            f"{settings.domain!r}. {suggest(str(settings.domain), known)}"
        )
    return found


def _class_indices(
    arrays: Arrays, split: str, values: np.ndarray, settings: NpzSettings
) -> np.ndarray:
    """Return the labels of a split as indices into the train classes."""
    key = f"{settings.label}_{split}"
    if len(unknown := np.setdiff1d(arrays[key], values)):
        raise TaskError(
            f"{key} in {short(settings.path, 100)} must hold labels of the training split, got "
            f"{len(unknown)} others, such as {unknown[0]!s}. Set `task.only` to draw all images "
            "from one split."
        )
    return np.searchsorted(values, arrays[key])


def _names(arrays: Arrays, values: np.ndarray, label: str) -> tuple[str, ...]:
    """Return the names of labels."""
    names = arrays.get(names_key(label))
    if names is not None and values.dtype.kind in "iu":
        values = names[values]
    return tuple(_text(value) for value in values)


def _text(value: np.generic) -> str:
    """Return a label as text."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
