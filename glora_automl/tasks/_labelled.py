"""How many labelled images are used, and which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field, field_validator, model_validator

from glora_automl._declarations import Declaration, Int
from glora_automl.errors import TaskError
from glora_automl.training import stage_rng

__all__ = ["LabelledSettings", "draw_labelled", "stratified_draw"]


class LabelledSettings(Declaration):
    """How many labelled images are used; base of all tasks that have more of them.

    Attributes:
        n_labelled: Labelled images to use, validation images included. None uses the whole
            training split.
        shots: Training images per class, instead of ``n_labelled``. Validation images come on top.
        validation_size: Validation images, as a count or as a fraction of the labelled images (of
            all shots). None takes the validation split of the source if all labelled images are
            used, otherwise a fifth; with ``shots`` as many per class, but at most 4 (CoOp, arXiv
            2109.01134).
        test_size: Test images, as a count or as a fraction, where the source has no test split.
            They are drawn before the labelled images. None is a fifth.
    """

    n_labelled: Int | None = Field(default=None, ge=2)
    shots: Int | None = Field(default=None, ge=1)
    validation_size: int | float | None = None
    test_size: int | float | None = None

    @field_validator("validation_size", "test_size", mode="before")
    @classmethod
    def _check_part(cls, value: object) -> object:
        if value is None or (type(value) is int and value >= 1):
            return value
        if type(value) is float and 0 < value < 1:
            return value
        raise ValueError(f"must be a count from 1 on or a share between 0 and 1, got {value!r}.")

    @model_validator(mode="after")
    def _one_number(self) -> LabelledSettings:
        if self.n_labelled is not None and self.shots is not None:
            raise ValueError("n_labelled and shots exclude each other; leave one out.")
        return self

    @property
    def takes_own_validation(self) -> bool:
        """Whether a validation split that the images come with is used."""
        return self.n_labelled is None and self.shots is None and self.validation_size is None


def draw_labelled(
    labels: np.ndarray,
    settings: LabelledSettings,
    seed: int,
    *,
    validation: bool = True,
    test: bool = False,
    names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the images to fit on, to validate on and to test on; disjoint and stratified.

    The test set depends on the seed and its own size alone, and fewer shots are among more: what
    is compared over numbers of images is tested on the same and differs in little else.

    Args:
        labels: Class indices ``(n,)`` of the training split.
        settings: How many are drawn.
        seed: Decides which.
        validation: Whether images to validate on are drawn.
        test: Whether images to test on are drawn, from the same split.
        names: Class names, for messages.

    Returns:
        Three arrays of indices in ascending order; what is not to be drawn is empty.

    Raises:
        TaskError: If there are too few images.

    Example:
        >>> labels = np.repeat([0, 1], 50)
        >>> settings = LabelledSettings(n_labelled=20, validation_size=0.25)
        >>> [len(part) for part in draw_labelled(labels, settings, seed=0)]
        [15, 5, 0]
    """
    rest, tested = np.arange(len(labels)), np.arange(0)
    if test:
        count = _count("test", settings.test_size, len(rest), 0.2)
        tested = stratified_draw(labels, count, stage_rng(seed, "test images"))
        rest = np.setdiff1d(rest, tested)
    if settings.shots is not None:
        return (*_draw_shots(labels, rest, settings, seed, validation, names), tested)
    used = rest
    if settings.n_labelled is not None:
        if settings.n_labelled > len(rest):
            raise TaskError(
                f"task.n_labelled must be at most the {len(rest)} images that there are to train "
                f"on, got {settings.n_labelled}; lower it or leave it out."
            )
        chosen = stratified_draw(
            labels[rest], settings.n_labelled, stage_rng(seed, "labelled images")
        )
        used = rest[chosen]
    if not validation:
        return used, np.arange(0), tested
    count = _count("validation", settings.validation_size, len(used), 0.2)
    if len(used) - count < (needed := len(np.unique(labels))):
        raise TaskError(
            f"task.n_labelled must leave an image of each of the {needed} classes to train on, got "
            f"{len(used)} of which {count} are validated on; raise it or lower task.validation."
        )
    # Drawn are those to fit on, of which each class gets one first.
    fit = used[stratified_draw(labels[used], len(used) - count, stage_rng(seed, "fitted images"))]
    return fit, np.setdiff1d(used, fit), tested


def _count(key: str, part: int | float | None, images: int, default: float) -> int:
    """A count or a share as a count that leaves some images."""
    part = default if part is None else part
    count = max(1, round(part * images)) if isinstance(part, float) else part
    if count >= images:
        raise TaskError(
            f"task.{key} must leave images to train on, got {part} of {images}; lower it."
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
    shots = settings.shots
    assert shots is not None
    classes = np.unique(labels)
    extra = min(shots, 4)
    if isinstance(settings.validation_size, float):
        extra = max(1, round(settings.validation_size * shots))
    elif settings.validation_size is not None:
        extra = 0  # a count over all classes, drawn from what the shots leave
    fit, validated, left = [], [], []
    for label in classes:
        members = rest[labels[rest] == label]
        members = stage_rng(seed, "shots", int(label)).permutation(members)
        needed = shots + (extra if validation else 0)
        if len(members) < needed:
            name = label if names is None else repr(names[label])
            raise TaskError(
                f"task.shots: each class must have {needed} images, {shots} to train on and "
                f"{needed - shots} to validate on; class {name} has {len(members)}; lower shots."
            )
        fit.append(members[:shots])
        validated.append(members[shots:needed])
        left.append(members[shots:])
    chosen = np.sort(np.concatenate(fit))
    if not validation:
        return chosen, np.arange(0)
    if extra:
        return chosen, np.sort(np.concatenate(validated))
    others = np.sort(np.concatenate(left))
    assert isinstance(settings.validation_size, int)
    if settings.validation_size > len(others):
        raise TaskError(
            f"task.validation must be at most the {len(others)} images that the shots leave, got "
            f"{settings.validation_size}; lower it."
        )
    rng = stage_rng(seed, "validation images")
    return chosen, others[stratified_draw(labels[others], settings.validation_size, rng)]


def stratified_draw(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw images in proportion to the sizes of their classes.

    Where there are enough, each class gets one first; the others are shared out by largest
    remainders, equal ones at random.

    Args:
        labels: Class indices ``(n,)``.
        count: How many to draw, at most ``n``.
        rng: Draws the images.

    Returns:
        Indices in ascending order.

    Example:
        >>> drawn = stratified_draw(np.repeat([0, 1, 2], [1, 30, 60]), 10, np.random.default_rng(0))
        >>> np.bincount(np.repeat([0, 1, 2], [1, 30, 60])[drawn]).tolist()
        [1, 3, 6]
    """
    classes, sizes = np.unique(labels, return_counts=True)
    seats = np.full(len(classes), int(count >= len(classes)))
    free, left = count - seats.sum(), sizes - seats
    if free:
        quota = free * left / left.sum()
        seats += np.floor(quota).astype(int)
        remainders = quota - np.floor(quota)
        order = np.lexsort((rng.permutation(len(classes)), -remainders.round(9)))
        seats[order[: count - seats.sum()]] += 1
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:number]
        for label, number in zip(classes, seats, strict=True)
    ]
    return np.sort(np.concatenate(drawn))
