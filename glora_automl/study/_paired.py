"""Comparison of two models image by image."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from glora_automl.training import MetricName, is_minimized

__all__ = ["CONFIDENCE", "accuracy_loss_bound", "beats", "n_images_needed"]

CONFIDENCE = 0.95
"""Coverage of the one-sided bound."""

N_RESAMPLES = 999
"""Random swaps of the predictions for metrics other than the accuracy."""


def beats(
    labels: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    metric: MetricName = "accuracy",
    n_tests: int = 1,
) -> bool:
    """Return whether one model is shown to be better than another one on the same images.

    For accuracies, :func:`accuracy_loss_bound` with 95% must be below zero. For other metrics a
    randomisation test decides, at a level of 5% (Edgington and Onghena, Randomization Tests, 2007).
    It swaps the predictions of both models at random images. Its level holds for any metric and
    any number of images per class, if the predictions of equally good models may be exchanged.

    Args:
        labels: Class indices ``(n,)``.
        one: Predicted classes ``(n,)`` or class probabilities ``(n, classes)``.
        other: Those of the other model.
        metric: What is compared. Without probabilities it may use the predicted class alone.
        n_tests: Models that are compared with the other one. The level is divided by them, so that
            all tests hold together (Bonferroni).

    Returns:
        False also where the metric is undefined for these images.

    Example:
        >>> labels = np.arange(20) % 2
        >>> half, most, all_but_one = labels * 0, labels.copy(), labels.copy()
        >>> most[:3] = 1 - most[:3]
        >>> all_but_one[0] = 1
        >>> beats(labels, all_but_one, half), beats(labels, all_but_one, most)
        (True, False)
        >>> beats(labels, all_but_one, half, "balanced_accuracy")
        True
    """
    from glora_automl.training import metric_function

    confidence = 1 - (1 - CONFIDENCE) / n_tests
    function = metric_function(metric)
    if function is None:
        first, second = (_classes(found) == labels for found in (one, other))
        n_lost, n_gained = int((second & ~first).sum()), int((first & ~second).sum())
        return accuracy_loss_bound(n_lost, n_gained, len(labels), confidence) < 0
    n_classes = 1 + max(int(labels.max()), *(int(_classes(found).max()) for found in (one, other)))
    predictions = np.concatenate([_probabilities(found, n_classes) for found in (one, other)])
    sign = -1 if is_minimized(metric) else 1

    def advantage(first: np.ndarray, second: np.ndarray) -> float:
        return sign * (function(labels, predictions[first]) - function(labels, predictions[second]))

    rows, n = np.arange(len(labels)), len(labels)
    observed = advantage(rows, rows + n)
    if not observed > 0:
        return False
    # The test of `scipy.stats.permutation_test`, which cannot end when its result is certain.
    n_as_good, most = 1, (1 - confidence) * (1 + N_RESAMPLES)
    rng = np.random.default_rng(0)
    for _ in range(N_RESAMPLES):
        swapped = np.where(rng.random(n) < 0.5, n, 0)
        n_as_good += advantage(rows + swapped, rows + n - swapped) >= observed - 1e-12
        if n_as_good > most + 1e-9:
            return False
    return True


def _classes(predictions: np.ndarray) -> np.ndarray:
    return predictions if predictions.ndim == 1 else predictions.argmax(1)


def _probabilities(predictions: np.ndarray, n_classes: int) -> np.ndarray:
    return np.eye(n_classes)[predictions] if predictions.ndim == 1 else predictions


def accuracy_loss_bound(
    n_lost: int, n_gained: int, n_images: int, confidence: float = CONFIDENCE
) -> float:
    """Return the one-sided upper bound of a loss in accuracy, as a fraction.

    Both models classify the same images, so only those count that one of them alone classifies
    correctly. The bound is that of Tango's score interval (Equivalence test and confidence
    interval for the difference in proportions for the paired-sample design, 1998). It holds for few
    such images, for which Wald's bound, zero without any, fails. Where nothing is gained, the bound
    of Clopper and Pearson for the lost images alone is taken if it is higher. Exact sums in
    ``tests/study/test_paired.py`` have a coverage of 95 to 99% on average, and 93.8% at worst.

    Args:
        n_lost: Images that only the first model classifies correctly.
        n_gained: Images that only the second model classifies correctly.
        n_images: All images, at least 1.
        confidence: Coverage of the bound.

    Example:
        >>> [round(100 * accuracy_loss_bound(n, n, 1000), 2) for n in (0, 5, 20)]
        [0.3, 0.58, 1.07]
    """
    from scipy.optimize import brentq
    from scipy.stats import beta

    difference = (n_lost - n_gained) / n_images
    if difference == 1:
        return 1.0

    z = NormalDist().inv_cdf(confidence)

    def distance(loss: float) -> float:
        return _tango(n_lost, n_gained, n_images, loss) + z

    # The score is 0 at the difference and falls; 1 itself has no variance.
    bound = float(brentq(distance, difference, 1 - 1e-12)) if distance(1 - 1e-12) < 0 else 1.0
    if n_gained == 0:
        bound = max(bound, float(beta.ppf(confidence, n_lost + 1, n_images - n_lost)))
    return bound


def _tango(n_lost: int, n_gained: int, n_images: int, loss: float) -> float:
    """Return the score of the counts under a loss in accuracy: Tango's equations 6 to 8."""
    n = n_images
    # The probability of a gained image under the loss is the larger root of a quadratic equation.
    b = (2 * n - n_lost + n_gained) * loss - n_lost - n_gained
    c = -n_gained * loss * (1 - loss)
    # Both roots are one where all images are gained; rounding may make the term negative there.
    gained = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    variance = n * (2 * gained + loss * (1 - loss))
    excess = n_lost - n_gained - n * loss
    return excess / math.sqrt(variance) if variance > 0 else 0.0


def n_images_needed(n_lost: int, n_gained: int, n_images: int, loss: float) -> int | None:
    """Return roughly how many images bring :func:`accuracy_loss_bound` down to a loss.

    It is Wald's formula for the same fractions of images, at least the images that a bound
    without any difference takes.

    Args:
        n_lost: As there.
        n_gained: As there.
        n_images: As there.
        loss: The bound to reach, as a fraction above 0.

    Returns:
        The images; None if the models differ by the loss or more, which no number of images helps.

    Example:
        >>> n_images_needed(0, 0, 100, 0.01), n_images_needed(3, 2, 100, 0.02)
        (299, 1351)
        >>> n_images_needed(3, 0, 100, 0.02) is None
        True
    """
    lost, gained = n_lost / n_images, n_gained / n_images
    difference = lost - gained
    if difference >= loss:
        return None
    least = math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-loss)) if loss < 1 else 1
    variance = lost + gained - difference**2
    z = NormalDist().inv_cdf(CONFIDENCE)
    return max(least, math.ceil(z**2 * variance / (loss - difference) ** 2))
