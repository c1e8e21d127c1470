"""Draws of labelled images: train, validation and test images of a training split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
    if test:
        reserve = 1 + validation
        count = _count("test_size", settings.test_size, labels, reserve)
        rng = stage_rng(seed, "test images")
        test_indices = stratified_draw(labels, count, rng, reserve=reserve)
        rest = np.setdiff1d(rest, test_indices)
    if settings.shots is not None:
        return (*_draw_shots(labels, rest, settings, seed, validation, names), test_indices)
    if settings.n_labelled is not None:
        if settings.n_labelled > len(rest):
            raise TaskError(
                f"task.n_labelled must be at most {len(rest)}, the size of the training split, got "
                f"{settings.n_labelled}. Lower `task.n_labelled`."
            )
        rng = stage_rng(seed, "labelled images")
        rest = rest[stratified_draw(labels[rest], settings.n_labelled, rng)]
    if not validation:
        return rest, np.arange(0), test_indices
    count = _count("validation_size", settings.validation_size, labels[rest], 1)
    rng = stage_rng(seed, "fitted images")
    chosen = rest[stratified_draw(labels[rest], count, rng, reserve=1)]
    return np.setdiff1d(rest, chosen), chosen, test_indices


def _count(key: str, size: int | float | None, labels: np.ndarray, reserve: int) -> int:
    """Return a count or fraction of images as a count.

    Args:
        key: Key of the size, for the message.
        size: The count or fraction.
        labels: Class indices of the images.
        reserve: Images that each class keeps.

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
        raise TaskError(
            f"task.{key} must leave {kept} image for each of the {len(np.unique(labels))} classes, "
            f"got {count} of {n_images} images. Lower `task.{key}`, or take more images."
        )
    return count


def _draw_shots(
    labels: np.ndarray,
    rest: np.ndarray,
    settings: LabelledSettings,
    seed: int,
    validation: bool,
    names: Sequence[str] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw train images per class, and validation images."""
    shots = settings.shots
    assert shots is not None
    extra = min(shots, 4)
    if isinstance(settings.validation_size, float):
        extra = max(1, round(settings.validation_size * shots))
    elif settings.validation_size is not None:
        extra = 0  # a count over all classes, drawn from the images beyond the shots
    train, per_class, beyond = [], [], []
    for label in np.unique(labels):
        members = rest[labels[rest] == label]
        members = stage_rng(seed, "shots", int(label)).permutation(members)
        needed = shots + (extra if validation else 0)
        if len(members) < needed:
            name = label if names is None else repr(names[label])
            raise TaskError(
                f"task.shots must leave {needed} images per class, {shots} train and "
                f"{needed - shots} validation, got {len(members)} of class {name}. "
                "Lower `task.shots`."
            )
        train.append(members[:shots])
        per_class.append(members[shots:needed])
        beyond.append(members[shots:])
    train_indices = np.sort(np.concatenate(train))
    if not validation:
        return train_indices, np.arange(0)
    if extra:
        return train_indices, np.sort(np.concatenate(per_class))
    others = np.sort(np.concatenate(beyond))
    assert isinstance(settings.validation_size, int)
    if settings.validation_size > len(others):
        raise TaskError(
            f"task.validation_size must be at most {len(others)}, the images beyond the shots, got "
            f"{settings.validation_size}. Lower `task.validation_size`."
        )
    rng = stage_rng(seed, "validation images")
    return train_indices, others[stratified_draw(labels[others], settings.validation_size, rng)]
