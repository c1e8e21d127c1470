"""scikit-learn's handwritten digits as a transfer task."""

from __future__ import annotations

import numpy as np
import torch

from glora_automl.tasks._images import ImageSet
from glora_automl.tasks._settings import DigitsSettings
from glora_automl.tasks._stratified import stratified_split
from glora_automl.tasks._task import Task

__all__ = ["load_digits"]


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
