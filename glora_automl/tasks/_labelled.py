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
        labelled: Labelled images that are used, those to validate on included; None uses all of
            the training split.
        shots: Images of each class to train on, instead of ``labelled``; those to validate on come
            on top.
        validation: Images that steer the search, as a count or as a share of the labelled ones (of
            all shots). None takes the validation split that the images come with, where all
            labelled images are used, otherwise a fifth, and with ``shots`` as many of each class,
            but at most 4 (CoOp, arXiv 2109.01134).
        test: Images for the final test, as a count or as a share, where the images come without a
            test split; they are drawn before the labelled ones. None is a fifth.
    """

    labelled: Int | None = Field(default=None, ge=2)
    shots: Int | None = Field(default=None, ge=1)
    validation: int | float | None = None
    test: int | float | None = None

    @field_validator("validation", "test", mode="before")
    @classmethod
    def _check_part(cls, value: object) -> object:
        if value is None or (type(value) is int and value >= 1):
            return value
        if type(value) is float and 0 < value < 1:
            return value
        raise ValueError(f"must be a count from 1 on or a share between 0 and 1, got {value!r}.")

    @model_validator(mode="after")
    def _one_number(self) -> LabelledSettings:
        if self.labelled is not None and self.shots is not None:
            raise ValueError("labelled and shots exclude each other; leave one out.")
        return self

    @property
    def takes_own_validation(self) -> bool:
        """Whether a validation split that the images come with is used."""
        return self.labelled is None and self.shots is None and self.validation is None


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
        >>> settings = LabelledSettings(labelled=20, validation=0.25)
        >>> [len(part) for part in draw_labelled(labels, settings, seed=0)]
        [15, 5, 0]
    """
    rest, tested = np.arange(len(labels)), np.arange(0)
    if test:
        count = _count("test", settings.test, len(rest), 0.2)
        tested = stratified_draw(labels, count, stage_rng(seed, "test images"))
        rest = np.setdiff1d(rest, tested)
    if settings.shots is not None:
        return (*_draw_shots(labels, rest, settings, seed, validation, names), tested)
    used = rest
    if settings.labelled is not None:
        if settings.labelled > len(rest):
            raise TaskError(
                f"task.labelled must be at most the {len(rest)} images that there are to train "
                f"on, got {settings.labelled}; lower it or leave it out."
            )
        chosen = stratified_draw(
            labels[rest], settings.labelled, stage_rng(seed, "labelled images")
        )
        used = rest[chosen]
    if not validation:
        return used, np.arange(0), tested
    count = _count("validation", settings.validation, len(used), 0.2)
    if len(used) - count < (needed := len(np.unique(labels))):
        raise TaskError(
            f"task.labelled must leave an image of each of the {needed} classes to train on, got "
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
    if isinstance(settings.validation, float):
        extra = max(1, round(settings.validation * shots))
    elif settings.validation is not None:
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
    assert isinstance(settings.validation, int)
    if settings.validation > len(others):
        raise TaskError(
            f"task.validation must be at most the {len(others)} images that the shots leave, got "
            f"{settings.validation}; lower it."
        )
    rng = stage_rng(seed, "validation images")
    return chosen, others[stratified_draw(labels[others], settings.validation, rng)]


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
