"""Images in an ``.npz`` file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from glora_automl._declarations import suggest
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._arrays import SPLITS, Arrays, names_key, read_arrays
from glora_automl.tasks._encoded import PackedImages
from glora_automl.tasks._images import Domain, Images, ImageSet, Task
from glora_automl.tasks._labelled import LabelledSettings
from glora_automl.tasks._reading import Reader, ReadingSettings
from glora_automl.tasks._splits import Examples, check_classes, checked, encoded_sets, split_task

__all__ = ["NpzSettings", "load_npz"]


class NpzSettings(LabelledSettings, ReadingSettings):
    """Images and labels in one ``.npz`` file, as ``numpy.savez`` writes it.

    ``x_train`` holds the images of the training split, uint8 of shape ``(n, height, width)`` or
    ``(n, height, width, channels)``, and ``y_train`` their labels ``(n,)``. ``x_val`` and
    ``x_test`` with their labels may be there; ``class_names`` may name the classes.

    Instead of ``x_train`` there may be image files: ``jpeg_train`` with their bytes, one after the
    other, and ``off_train`` with the ``n + 1`` places where one ends and the next begins.

    Attributes:
        source: Names this kind of task.
        path: The file; in a recipe file a path from its folder.
        label: Which labels are learnt: ``elevation`` are those of ``elevation_train``. Where they
            are no indices into ``class_names`` (``elevation_names``), each value is a class.
        domain: Name of the domain that is learnt, where ``domain_train`` tells the domain of each
            image (as an index into ``domain_names``, if there is that). Its test split is the
            test; all images of each other domain are a further test set.
        only: The one split that all images are drawn from, such as where the others have other
            classes; None uses each for what its name says.
    """

    source: Literal["npz"]
    path: str
    label: str = "y"
    domain: str | None = None
    only: Literal["train", "val", "test"] | None = None


def load_npz(settings: NpzSettings, seed: int, progress: Progress | None = None) -> Task:
    """Load a task from an ``.npz`` file; nothing in it is unpickled.

    Raises:
        TaskError: If the file, or an array in it, is not there or not as it should be.
    """
    keys = [settings.label] + (["domain"] if settings.domain is not None else [])
    arrays = read_arrays(settings.path, keys)
    if settings.only is not None:
        arrays = _only(arrays, settings.only, settings.path)
    splits = [s for s in SPLITS if f"{settings.label}_{s}" in arrays]
    learnt = {split: np.arange(len(arrays[f"{settings.label}_{split}"])) for split in splits}
    others: dict[str, dict[str, np.ndarray]] = {}
    if settings.domain is not None:
        by_domain = _by_domain(arrays, splits, settings)
        learnt = by_domain.pop(settings.domain)
        others = by_domain
    values = np.unique(arrays[f"{settings.label}_train"][learnt["train"]])
    names = _names(arrays, values, settings.label)
    check_classes(Path(settings.path).stem, names)
    labels = {split: _indices(arrays, split, values, settings) for split in splits}
    images = _Images(arrays, labels, settings, Reader(settings, progress))
    task = split_task(
        Path(settings.path).stem,
        names,
        {split: images.of(split, chosen) for split, chosen in learnt.items()},
        settings,
        seed,
    )
    domains = {name: Domain(images.joined(chosen)) for name, chosen in others.items()}
    return checked(Task(**{**task.__dict__, "domains": domains}))


def _only(arrays: Arrays, split: str, path: str) -> Arrays:
    """The arrays of one split, as if they were those to train on."""
    ends = tuple(f"_{other}" for other in SPLITS)
    found = {key: value for key, value in arrays.items() if not key.endswith(ends)}
    own = {key: value for key, value in arrays.items() if key.endswith(f"_{split}")}
    if not own:
        raise TaskError(f"task.only: {path!r} has no images {f'x_{split}'!r}; leave it out.")
    return found | {f"{key.removesuffix(split)}train": value for key, value in own.items()}


class _Images:
    """Image sets of an ``.npz`` file."""

    def __init__(
        self, arrays: Arrays, labels: Arrays, settings: NpzSettings, reader: Reader
    ) -> None:
        self._arrays = arrays
        self._labels = labels
        self._settings = settings
        self._packed: dict[str, Images] = {}
        packed = {
            split: Examples(
                PackedImages(
                    arrays[f"jpeg_{split}"], arrays[f"off_{split}"], f"{settings.path}:{split}"
                ),
                labels[split],
            )
            for split in labels
            if f"jpeg_{split}" in arrays
        }
        if packed:
            self._packed = encoded_sets(packed, reader)
        elif settings.crop_mode != "squash":
            raise TaskError(
                f"task.crop_mode is for image files, the images of {settings.path!r} are arrays of "
                f"one size, got {settings.crop_mode!r}; leave it out."
            )

    def of(self, split: str, chosen: np.ndarray) -> Images:
        """Those of a split that are chosen."""
        if split in self._packed:
            return self._packed[split]
        pixels = self._arrays[f"x_{split}"][chosen]
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        return ImageSet(
            torch.from_numpy(np.ascontiguousarray(pixels)),
            torch.from_numpy(self._labels[split][chosen]),
        )

    def joined(self, chosen: dict[str, np.ndarray]) -> ImageSet:
        """Those of all splits that are chosen."""
        parts = [self.of(split, indices) for split, indices in chosen.items()]
        sets = [part for part in parts if isinstance(part, ImageSet)]
        return ImageSet(
            torch.cat([part.images for part in sets]), torch.cat([part.labels for part in sets])
        )


def _by_domain(
    arrays: Arrays, splits: list[str], settings: NpzSettings
) -> dict[str, dict[str, np.ndarray]]:
    """Which images of each split belong to each domain."""
    if "x_train" not in arrays:
        raise TaskError(
            f"task.domain needs images as x_train, {settings.path!r} holds image files; leave it "
            "out."
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
            f"task.domain: {settings.path!r} has no domain {settings.domain!r} to train on; "
            f"{suggest(str(settings.domain), known)}"
        )
    return found


def _indices(arrays: Arrays, split: str, values: np.ndarray, settings: NpzSettings) -> np.ndarray:
    """The labels of a split as indices into the values that are learnt."""
    key = f"{settings.label}_{split}"
    if len(strange := np.setdiff1d(arrays[key], values)):
        raise TaskError(
            f"task.label: each label must occur among those that are trained on, {key} of "
            f"{settings.path!r} has {len(strange)} others, such as {strange[0]!s}; task.only draws "
            "all images from one split."
        )
    return np.searchsorted(values, arrays[key])


def _names(arrays: Arrays, values: np.ndarray, label: str) -> tuple[str, ...]:
    """Names of labels."""
    names = arrays.get(names_key(label))
    if names is not None and values.dtype.kind in "iu":
        return tuple(str(names[value]) for value in values)
    return tuple(str(value) for value in values)
