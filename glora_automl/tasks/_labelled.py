"""Draws of labelled images: train, validation and test images of a training split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glora_automl._messages import short
from glora_automl.errors import TaskError
from glora_automl.tasks._settings import LabelledSettings
from glora_automl.tasks._stratified import drawable, stratified_draw
from glora_automl.training import stage_rng

__all__ = ["draw_labelled"]

DEFAULT_FRACTION = 0.2
"""Validation or test images as a fraction of the images that they are drawn from."""


def draw_labelled(
    labels: np.ndarray,
    settings: LabelledSettings,
    seed: int,
    *,
    validation: bool = True,
    test: bool = False,
    names: Sequence[str] | None = None,
    n_copies: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw disjoint, stratified train, validation and test images.

    Of each class, the train images come first, then the validation images, then the test images: a
    class of one image is trained on. The test images depend on ``seed`` and ``test_size`` only. The
    train images of fewer shots are a subset of those of more shots.

    Args:
        labels: Class indices ``(n,)`` of the training split.
        settings: Numbers of images.
        seed: Seed of the draw.
        validation: Whether to draw validation images.
        test: Whether to draw test images.
        names: Class names, for error messages.
        n_copies: Copies of these images that were left out, for error messages.

    Returns:
        Indices of train, validation and test images in ascending order; a set that is not drawn is
        empty.

    Raises:
        TaskError: If there are too few images.

    Example:
        >>> labels = np.repeat([0, 1], 50)
        >>> settings = LabelledSettings(n_labelled=20, validation_size=0.25)
        >>> [len(part) for part in draw_labelled(labels, settings, seed=0)]
        [15, 5, 0]
    """
    rest, test_indices = np.arange(len(labels)), np.arange(0)
    more = f", without {n_copies:,} copies of others" if n_copies else ""
    if test:
        reserve = 1 + validation
        count = _count("test_size", settings.test_size, labels, reserve, more)
        rng = stage_rng(seed, "test images")
        test_indices = stratified_draw(labels, count, rng, reserve=reserve)
        rest = np.setdiff1d(rest, test_indices)
    if settings.shots is not None:
        return (*_draw_shots(labels, rest, settings, seed, validation, names, more), test_indices)
    way = None
    if settings.n_labelled is not None:
        least = len(np.unique(labels[rest])) + 1 if validation else 2
        way = f"Raise `task.n_labelled` to at least {least}." if least <= len(rest) else None
        if settings.n_labelled > len(rest):
            raise TaskError(
                f"task.n_labelled must be at most {len(rest)}, the images that are left for train "
                f"and validation{more}, got {settings.n_labelled}. "
                + ("Lower `task.n_labelled`." if way else _add(2))
            )
        rng = stage_rng(seed, "labelled images")
        rest = rest[stratified_draw(labels[rest], settings.n_labelled, rng)]
    if not validation:
        return rest, np.arange(0), test_indices
    count = _count("validation_size", settings.validation_size, labels[rest], 1, more, way)
    rng = stage_rng(seed, "fitted images")
    chosen = rest[stratified_draw(labels[rest], count, rng, reserve=1)]
    return np.setdiff1d(rest, chosen), chosen, test_indices


def _add(n_images: int) -> str:
    """Return the way out of too few images."""
    return f"Add images, so that some class has at least {n_images} different ones."


def _count(
    key: str,
    size: int | float | None,
    labels: np.ndarray,
    reserve: int,
    more: str,
    way: str | None = None,
) -> int:
    """Return a count or fraction of images as a count.

    Args:
        key: Key of the size, for the message.
        size: The count or fraction.
        labels: Class indices of the images.
        reserve: Images that each class keeps.
        more: What else the message says about the images.
        way: Way out where no image is left; None is to add images.

    Raises:
        TaskError: If classes would keep fewer images.
    """
    n_images, limit = len(labels), drawable(labels, reserve)
    fraction = DEFAULT_FRACTION if size is None else size
    count = max(1, round(fraction * n_images)) if isinstance(fraction, float) else fraction
    if isinstance(fraction, float) and limit:
        return min(count, limit)
    if count > limit:
        kept = "a train" if reserve == 1 else "a train and a validation"
        if limit:
            way = f"Lower `task.{key}` to at most {limit}."
        raise TaskError(
            f"task.{key} must leave {kept} image of each class, got {count} of {n_images} "
            f"images{more}. {way or _add(reserve + 1)}"
        )
    return count


def _draw_shots(
    labels: np.ndarray,
    rest: np.ndarray,
    settings: LabelledSettings,
    seed: int,
    validation: bool,
    names: Sequence[str] | None,
    more: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw train images per class, and validation images."""
    shots = settings.shots
    assert shots is not None
    extra = _validation_shots(shots, settings) if validation else 0
    classes, sizes = np.unique(labels[rest], return_counts=True)
    if (fewest := int(sizes.min())) < shots + extra:
        smallest = classes[sizes.argmin()]
        fits = (
            k
            for k in range(min(shots, fewest), 0, -1)
            if k + (_validation_shots(k, settings) if validation else 0) <= fewest
        )
        lower = next(fits, None)
        name = str(smallest) if names is None else short(names[smallest], 40)
        way = f"Set `task.shots = {lower}`." if lower else "Add images of this class."
        raise TaskError(
            f"task.shots must leave {shots + extra} images per class, {shots} train and {extra} "
            f"validation, got {fewest} of class {name}{more}. {way}"
        )
    train, per_class, beyond = [], [], []
    for label in classes:
        members = rest[labels[rest] == label]
        members = stage_rng(seed, "shots", int(label)).permutation(members)
        train.append(members[:shots])
        per_class.append(members[shots : shots + extra])
        beyond.append(members[shots:])
    train_indices = np.sort(np.concatenate(train))
    if not validation:
        return train_indices, np.arange(0)
    if extra:
        return train_indices, np.sort(np.concatenate(per_class))
    others = np.sort(np.concatenate(beyond))
    assert isinstance(settings.validation_size, int)
    if settings.validation_size > len(others):
        way = f"Lower `task.validation_size` to at most {len(others)}."
        if not len(others):
            way = f"Set `task.shots = {shots - 1}`." if shots > 1 else _add(2)
        raise TaskError(
            f"task.validation_size must be at most {len(others)}, the images beyond the "
            f"shots{more}, got {settings.validation_size}. {way}"
        )
    rng = stage_rng(seed, "validation images")
    return train_indices, others[stratified_draw(labels[others], settings.validation_size, rng)]


def _validation_shots(shots: int, settings: LabelledSettings) -> int:
    """Return the validation images per class; 0 for a count over all classes."""
    if isinstance(settings.validation_size, float):
        return max(1, round(settings.validation_size * shots))
    # A count is drawn from the images beyond the shots.
    return min(shots, 4) if settings.validation_size is None else 0
