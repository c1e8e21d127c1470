"""Metrics of classifiers beside accuracy and loss, from scikit-learn.

scikit-learn is a dependency in any case, and an evaluation has all labels and probabilities at
once. torchmetrics would add two packages for sums over batches, which nothing here needs.
"""

from __future__ import annotations

import math

import numpy as np
from sklearn import metrics

from glora_automl.training._score import ObjectiveName, ScoreFunction

__all__ = ["metric_function"]


def metric_function(name: ObjectiveName) -> ScoreFunction | None:
    """Return the function of a metric; None for accuracy and loss, which every score has.

    The metrics are scikit-learn's. ``balanced_accuracy`` is the mean accuracy over the classes of
    the labels, ``macro_f1`` the mean F1 over the classes of labels and predictions, ``auroc`` the
    mean of one class against the rest over the classes of the labels. ``kappa`` is Cohen's, with
    quadratic weights: the distance of two classes is that of their places.

    Returns:
        The function. Its value is NaN where the metric is undefined, such as the AUROC of images of
        one class, or a probability is not finite.

    Example:
        >>> from glora_automl.training import METRICS
        >>> labels, probabilities = np.array([0, 0, 0, 1]), np.array([[0.9, 0.1]] * 4)
        >>> {name: metric_function(name)(labels, probabilities) for name in METRICS[1:3]}
        ... # doctest: +ELLIPSIS
        {'balanced_accuracy': 0.5, 'macro_f1': 0.428...}
    """
    if name in ("accuracy", "loss"):
        return None
    function = _FUNCTIONS[name]

    def score(labels: np.ndarray, probabilities: np.ndarray) -> float:
        # scikit-learn raises for them; a diverged model has them
        if not np.isfinite(probabilities).all():
            return math.nan
        return float(function(labels, probabilities))

    return score


def _balanced_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    # balanced_accuracy_score warns of each predicted class without images
    return metrics.recall_score(  # type: ignore[no-any-return]
        labels,
        probabilities.argmax(1),
        labels=np.unique(labels),
        average="macro",
        zero_division=0,
    )


def _macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    return metrics.f1_score(  # type: ignore[no-any-return]
        labels, probabilities.argmax(1), average="macro", zero_division=0
    )


def _auroc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    present = np.unique(labels)
    if len(present) < 2:
        return math.nan
    # As an indicator matrix, because classes without images may be left out of that.
    return metrics.roc_auc_score(  # type: ignore[no-any-return]
        labels[:, None] == present, probabilities[:, present], average="macro"
    )


def _log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    return metrics.log_loss(  # type: ignore[no-any-return]
        labels, probabilities, labels=np.arange(probabilities.shape[1])
    )


def _kappa(labels: np.ndarray, probabilities: np.ndarray) -> float:
    predictions = probabilities.argmax(1)
    if len(np.union1d(labels, predictions)) < 2:
        return math.nan
    classes = np.arange(probabilities.shape[1])
    return metrics.cohen_kappa_score(  # type: ignore[no-any-return]
        labels, predictions, labels=classes, weights="quadratic"
    )


_FUNCTIONS: dict[str, ScoreFunction] = {
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "auroc": _auroc,
    "log_loss": _log_loss,
    "kappa": _kappa,
}
