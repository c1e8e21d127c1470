"""Scores of a model, and the names of metrics; without torch and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, get_args

import numpy as np
from pydantic import Field

__all__ = [
    "METRICS",
    "MetricName",
    "ObjectiveName",
    "Score",
    "ScoreFunction",
    "is_minimized",
    "metric_value",
    "takes_probabilities",
]

MetricName = Literal["accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss", "kappa"]

ObjectiveName = Literal["loss"] | MetricName
"""What the trials of a search may be valued by."""

METRICS: tuple[MetricName, ...] = get_args(MetricName)


def is_minimized(name: str) -> bool:
    """Return whether lower values of a metric or objective are better."""
    return name in ("loss", "log_loss")


def takes_probabilities(name: str) -> bool:
    """Return whether a metric takes class probabilities, not only the most probable class."""
    return name in ("auroc", "log_loss")


def metric_value(name: str, value: float | None) -> str:
    """Format a value: accuracies in percent, others as numbers; a dash without a value.

    Example:
        >>> metric_value("balanced_accuracy", 0.5), metric_value("auroc", 0.75)
        ('50.0', '0.750')
    """
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if name.endswith("accuracy") else f"{value:.3f}"


ScoreFunction = Callable[[np.ndarray, np.ndarray], float]
"""A score of labels ``(n,)`` and class probabilities ``(n, classes)``; higher is better."""


class Score(NamedTuple):
    """Accuracy and loss of a model on a set of images.

    Attributes:
        accuracy: Fraction of correctly classified images, 0 to 1.
        loss: Mean cross-entropy in nats.
        n_images: Number of images.
        scaled_loss: :func:`temperature_scaled_loss`; None if it was not computed.
        custom: Value of a score function, such as a metric's; None without one.
    """

    accuracy: Annotated[float, Field(ge=0, le=1)]
    loss: float
    n_images: Annotated[int, Field(ge=1)]
    scaled_loss: float | None = None
    custom: float | None = None

    def value(self, name: str) -> float | None:
        """Return the value of a metric or objective: accuracy, loss, else ``custom``.

        Example:
            >>> score = Score(0.9, 0.3, 100, custom=0.7)
            >>> score.value("loss"), score.value("kappa")
            (0.3, 0.7)
        """
        return {"accuracy": self.accuracy, "loss": self.loss}.get(name, self.custom)
