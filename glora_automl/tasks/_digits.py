"""scikit-learn's handwritten digits, split into a transfer task."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from glora_automl._declarations import Declaration, Int
from glora_automl.tasks._images import ImageSet, Task, stratified_split

__all__ = ["DigitsSettings", "load_digits"]


class DigitsSettings(Declaration):
    """Which digits are known to the backbone, and how many images of the others are labelled.

    Attributes:
        source: Names this task.
        classes: The digits to tell apart.
        pretraining_classes: Other digits, on which a backbone may be pretrained.
        train_per_class: Labelled images of each class to train on.
        validation_per_class: Labelled images of each class that steer the search.
    """

    source: Literal["digits"]
    classes: tuple[Int, ...] = Field(min_length=2)
    pretraining_classes: tuple[Int, ...] = ()
    train_per_class: Int = Field(ge=1)
    validation_per_class: Int = Field(ge=1)

    @model_validator(mode="after")
    def _disjoint(self) -> DigitsSettings:
        together = [*self.classes, *self.pretraining_classes]
        if len(set(together)) < len(together) or not set(together) <= set(range(10)):
            raise ValueError(
                "classes and pretraining_classes must be digits from 0 to 9, each at most once, "
                f"got {list(self.classes)} and {list(self.pretraining_classes)}."
            )
        return self


def load_digits(settings: DigitsSettings, seed: int) -> Task:
    """Load the 1,797 images of 8 x 8 pixels that scikit-learn ships (UCI, CC BY 4.0).

    What is neither fitted nor validated on is the test split.

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

    chosen = np.flatnonzero(np.isin(targets, settings.classes))
    per_class = [settings.train_per_class, settings.validation_per_class]
    parts = stratified_split(targets[chosen], per_class, np.random.default_rng([seed, 0xD161]))
    train, validation, test = (subset(chosen[part], settings.classes) for part in parts)
    others = settings.pretraining_classes
    return Task(
        name="digits",
        classes=tuple(str(digit) for digit in sorted(settings.classes)),
        train=train,
        validation=validation,
        test=test,
        pretraining=subset(np.flatnonzero(np.isin(targets, others)), others) if others else None,
    )
