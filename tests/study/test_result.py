"""The order of scores."""

import pytest

from glora_automl.study import Row, best_row, is_better, quality
from glora_automl.training import Score


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Score(0.7, 1.9, 150, 0.81), Score(0.8, 1.7, 150, 0.84)),  # the loss decides
        (Score(0.8, 1.9, 150, 0.8), Score(0.7, 1.7, 150, 0.8)),  # of equal losses the accuracy
    ],
)
def test_quality_orders_by_scaled_loss_then_accuracy(better, worse):
    assert quality(better) > quality(worse)
    assert is_better(better, worse)
    assert not is_better(worse, better)
    assert not is_better(better, better)


@pytest.mark.parametrize(
    ("metric", "better", "worse"),
    [
        ("auroc", Score(0.7, 1.9, 150, 0.9, 0.8), Score(0.8, 1.7, 150, 0.8, 0.7)),
        ("log_loss", Score(0.7, 1.9, 150, 0.9, 0.7), Score(0.8, 1.7, 150, 0.8, 0.8)),
        ("kappa", Score(0.7, 1.9, 150, 0.8, 0.5), Score(0.8, 1.7, 150, 0.9, 0.5)),
        ("kappa", Score(0.7, 1.9, 150, 0.9, -1.0), Score(0.8, 1.7, 150, 0.8, None)),
    ],
)
def test_quality_with_a_metric_orders_by_its_value_then_scaled_loss(metric, better, worse):
    assert is_better(better, worse, metric)
    assert not is_better(worse, better, metric)
    rows = [Row("a", 1, worse), Row("b", 1, better)]
    assert best_row(rows, metric).name == "b"


def test_best_row_is_the_first_of_equal_ones_and_has_a_score():
    score, worse = Score(0.8, 1.0, 10, 0.5), Score(0.9, 1.0, 10, 0.6)
    rows = [Row("none"), Row("a", 1, worse), Row("b", 1, score), Row("c", 1, score)]
    assert best_row(rows).name == "b"
