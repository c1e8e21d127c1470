import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from torch import nn

from glora_automl.training import (
    METRICS,
    evaluate,
    is_minimized,
    metric_function,
    metric_value,
)

NAMES = [name for name in METRICS if name != "accuracy"]


def drawn(seed, n_images=40, n_classes=4):
    rng = np.random.default_rng(seed)
    return rng.integers(n_classes, size=n_images), rng.dirichlet(np.ones(n_classes), n_images)


def by_definition(name, labels, probabilities):
    """Return a metric by counting pairs and classes."""
    n_classes = probabilities.shape[1]
    predictions = probabilities.argmax(1)
    present = sorted(set(labels.tolist()))
    if name == "log_loss":
        return -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    if name == "balanced_accuracy":
        return np.mean([(predictions[labels == c] == c).mean() for c in present])
    if name == "macro_f1":
        either = sorted({*present, *predictions.tolist()})
        both = [((labels == c) & (predictions == c)).sum() for c in either]
        total = [(labels == c).sum() + (predictions == c).sum() for c in either]
        return np.mean([2 * b / t for b, t in zip(both, total, strict=True)])
    if name == "auroc":
        found = []
        for c in present:
            own, other = probabilities[labels == c, c], probabilities[labels != c, c]
            pairs = own[:, None] - other
            found.append((pairs > 0).mean() + (pairs == 0).mean() / 2)
        return np.mean(found)
    distance = (labels - predictions) ** 2
    expected = np.mean([(a - b) ** 2 for a in labels for b in predictions])
    assert n_classes > predictions.max()
    return 1 - distance.mean() / expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_metric_equals_its_definition(name, seed):
    labels, probabilities = drawn(seed)
    found = metric_function(name)(labels, probabilities)
    assert found == pytest.approx(by_definition(name, labels, probabilities))


@pytest.mark.parametrize("name", NAMES)
def test_metric_with_a_class_without_images_is_that_of_the_present_classes(name):
    labels, probabilities = drawn(0)
    labels[labels == 2] = 3
    found = metric_function(name)(labels, probabilities)
    assert found == pytest.approx(by_definition(name, labels, probabilities))


def test_auroc_of_two_classes_is_that_of_the_second():
    labels, probabilities = drawn(0, n_classes=2)
    expected = metrics.roc_auc_score(labels, probabilities[:, 1])
    assert metric_function("auroc")(labels, probabilities) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    seed=st.integers(0, 9),
    broken=st.sampled_from([None, np.nan, np.inf]),
)
def test_metric_of_any_labels_is_a_number_or_nan_without_a_warning(name, labels, seed, broken):
    _, probabilities = drawn(seed, len(labels))
    if broken is not None:
        probabilities[0, 0] = broken
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = metric_function(name)(np.array(labels), probabilities)
    assert isinstance(value, float)
    if broken is None and len(set(labels)) > 1:
        assert math.isfinite(value)
    if broken is not None:
        assert math.isnan(value)


def test_perfect_predictions_have_the_best_value_of_each_metric():
    labels = np.arange(12) % 4
    best = {name: metric_function(name)(labels, np.eye(4)[labels]) for name in NAMES}
    assert best.pop("log_loss") == pytest.approx(0, abs=1e-9)
    assert set(best.values()) == {1.0}


def test_is_minimized_holds_for_losses_alone():
    assert [name for name in (*METRICS, "loss", "custom") if is_minimized(name)] == [
        "log_loss",
        "loss",
    ]


def test_metric_value_shows_accuracies_in_percent():
    assert [metric_value(name, 0.25) for name in METRICS] == ["25.0", "25.0", *["0.250"] * 4]
    assert metric_value("auroc", None) == "–"


def test_evaluate_with_a_metric_gives_it_probabilities_of_all_images():
    images = 20 * torch.eye(3)[[0, 1, 2, 2]][:, :, None, None]
    labels = torch.tensor([0, 1, 2, 0])
    score = evaluate(nn.Flatten(), images, labels, 1, score_function=metric_function("log_loss"))
    assert score.value("log_loss") == pytest.approx(score.loss)
    assert score.value("accuracy") == 0.75
    assert score.value("loss") == score.loss
