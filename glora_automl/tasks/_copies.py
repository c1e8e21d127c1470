"""Draws in which all copies of one picture are in one set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from glora_automl.tasks._images import Images
from glora_automl.tasks._labelled import draw_labelled
from glora_automl.tasks._settings import LabelledSettings

__all__ = ["draw_distinct"]

MAX_COMPARED = 10_000
"""Largest training split that is compared as a whole for a draw of a few of its images."""


def draw_distinct(
    images: Images,
    settings: LabelledSettings,
    seed: int,
    *,
    validation: bool = True,
    test: bool = False,
    names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw as :func:`draw_labelled`, with copies of one picture in one set.

    A picture counts once, for the smallest class that has it. Its copies, images of equal pixels,
    follow it. ``n_labelled`` and
    ``shots`` are numbers of different pictures: copies of these are left out.

    Args:
        images: The training split.
        settings: Numbers of images.
        seed: Seed of the draw.
        validation: Whether to draw validation images.
        test: Whether to draw test images.
        names: Class names, for error messages.

    Returns:
        Indices of train, validation and test images in ascending order.

    Raises:
        TaskError: If there are too few images, or one cannot be decoded.
    """
    labels = images.labels.numpy()
    pool = np.arange(len(labels))
    classes, sizes = labels.copy(), np.bincount(labels)
    takes_all = settings.n_labelled is None and settings.shots is None
    original: dict[bytes, int] = {}
    copies: dict[int, int] = {}
    seen = np.zeros(len(labels), dtype=bool)
    while True:
        drawn = draw_labelled(
            classes[pool],
            settings,
            seed,
            validation=validation,
            test=test,
            names=names,
            n_copies=len(copies),
        )
        parts = [pool[part] for part in drawn]
        # Of a large split, only the drawn images are decoded; the draw is repeated without copies.
        compared = np.sort(np.concatenate(parts)) if len(labels) > MAX_COMPARED else pool
        new = compared[~seen[compared]]
        seen[new] = True
        asked = images if len(new) == len(labels) else images.subset(torch.from_numpy(new))
        digests = asked.image_digests()
        found = {
            index: first
            for index, digest in zip(new.tolist(), digests, strict=True)
            if (first := original.setdefault(digest, index)) != index
        }
        if not found:
            break
        copies |= found
        if takes_all:
            for index, first in found.items():
                if sizes[labels[index]] < sizes[classes[first]]:
                    classes[first] = labels[index]
        pool = np.setdiff1d(pool, list(found))
    train, chosen, tested = parts
    if takes_all:
        train, chosen = _with_copies(train, copies), _with_copies(chosen, copies)
    return train, chosen, _with_copies(tested, copies)


def _with_copies(part: np.ndarray, copies: dict[int, int]) -> np.ndarray:
    """Return a set with the copies of its pictures."""
    more, originals = np.array([*copies, *copies.values()], dtype=np.int64).reshape(2, -1)
    return np.sort(np.concatenate([part, more[np.isin(originals, part)]]))
