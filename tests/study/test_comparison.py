"""Rank correlation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from glora_automl.study import Comparison, RankCorrelation, Row, spearman


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_spearman_equals_scipys_within_its_interval(points):
    found = spearman(points)
    assert found.pairs == tuple((float(a), float(b)) for a, b in points)
    first, second = zip(*points, strict=True)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert (found.rho, found.low, found.high) == (None, None, None)
        return
    assert found.rho == pytest.approx(stats.spearmanr(first, second).statistic)
    if len(points) < 5:
        assert (found.low, found.high) == (None, None)
    else:
        assert -1 <= found.low <= found.rho <= found.high <= 1
        assert found.high - found.low > 0.2


def test_spearman_of_an_order_has_an_interval_that_narrows_with_more_points():
    few, many = (spearman([(i, i**2) for i in range(n)]) for n in (5, 20))
    assert (few.rho, few.high, many.rho) == pytest.approx((1, 1, 1))
    assert 0 < few.low < 0.5 < many.low < 1
    reverse = spearman([(i, -i) for i in range(5)])
    assert (reverse.rho, reverse.low) == pytest.approx((-1, -1))
    assert reverse.high == pytest.approx(-few.low)


def test_spearman_interval_is_that_of_bonett_and_wright():
    rng = np.random.default_rng(0)
    found = spearman(rng.normal(size=(30, 2)) + rng.normal(size=(30, 1)))
    width = 1.96 * ((1 + found.rho**2 / 2) / 27) ** 0.5
    expected = np.tanh(np.arctanh(found.rho) + np.array([-width, width]))
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-4)


def test_spearman_interval_holds_the_true_correlation_in_about_95_of_100():
    """The rank correlation of a normal pair with correlation r is 6 / pi asin(r / 2)."""
    rng = np.random.default_rng(1)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)
    hits = 0
    for _ in range(400):
        x = rng.normal(size=(10, 1))
        found = spearman(np.hstack([x, 0.6 * x + 0.8 * rng.normal(size=(10, 1))]))
        hits += found.low <= truth <= found.high
    assert 0.9 <= hits / 400 <= 0.99


@pytest.mark.parametrize("correlation", [None, RankCorrelation(0.5, None, None, ((0.1, 0.2),))])
def test_comparison_from_json_reverses_to_json(correlation):
    comparison = Comparison(100, (Row("searched", 12), Row("LoRA")), "BitFit", correlation)
    assert Comparison.from_json(comparison.to_json()) == comparison
