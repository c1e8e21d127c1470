"""scikit-learn's handwritten digits as a transfer task."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from glora_automl._declarations import Declaration, Int
from glora_automl.tasks._images import ImageSet
from glora_automl.tasks._stratified import stratified_split
from glora_automl.tasks._task import Task

__all__ = ["DigitsSettings", "load_digits"]


class DigitsSettings(Declaration):
    """Classes of the task and of the backbone's pretraining, and images per class.

    Attributes:
        source: Kind of task.
        classes: Digits of the task.
        pretraining_classes: Other digits, for pretraining a backbone.
        train_per_class: Train images per class.
        validation_per_class: Validation images per class.
    """

    source: Literal["digits"]
    classes: tuple[Int, ...] = Field(min_length=2)
    pretraining_classes: tuple[Int, ...] = ()
    train_per_class: Int = Field(ge=1, le=1000)
    validation_per_class: Int = Field(ge=1, le=1000)

    @model_validator(mode="after")
    def _check_disjoint(self) -> DigitsSettings:
        digits = [*self.classes, *self.pretraining_classes]
        if len(set(digits)) < len(digits) or not set(digits) <= set(range(10)):
            raise ValueError(
                "classes and pretraining_classes must be digits from 0 to 9, each at most once, "
                f"got {list(self.classes)} and {list(self.pretraining_classes)}. "
                "Correct `task.classes` or `task.pretraining_classes`."
            )
        return self


def load_digits(settings: DigitsSettings, seed: int) -> Task:
    """Load the 1,797 images of 8 x 8 pixels in scikit-learn (UCI, CC BY 4.0).

    All images beyond the train and validation images are test images.

    Raises:
        TaskError: If a class has too few images.

    Example:
        >>> task = load_digits(DigitsSettings(source="digits", classes=(3, 8), train_per_class=5,
        ...                                   validation_per_class=10), seed=0)
        >>> len(task.train), len(task.validation), len(task.test)
        (10, 20, 327)
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    # Pixels are counts from 0 to 16.
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    targets = bunch.target.astype(np.int64)

    def subset(indices: np.ndarray, classes: tuple[int, ...]) -> ImageSet:
        labels = np.searchsorted(np.sort(classes), targets[indices])
        return ImageSet(torch.from_numpy(pixels[indices]), torch.from_numpy(labels))

    members = np.flatnonzero(np.isin(targets, settings.classes))
    per_class = [settings.train_per_class, settings.validation_per_class]
    parts = stratified_split(targets[members], per_class, np.random.default_rng([seed, 0xD161]))
    train, validation, test = (subset(members[part], settings.classes) for part in parts)
    others = settings.pretraining_classes
    return Task(
        name="digits",
        classes=tuple(str(digit) for digit in sorted(settings.classes)),
        train=train,
        validation=validation,
        test=test,
        pretraining=subset(np.flatnonzero(np.isin(targets, others)), others) if others else None,
    )
