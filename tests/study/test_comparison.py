"""Rank correlation."""

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
        assert -1 <= found.low <= found.high <= 1


def test_spearman_of_an_order_is_1_with_a_certain_interval():
    found = spearman([(i, i**2) for i in range(20)])
    assert found.rho == pytest.approx(1)
    assert (found.low, found.high) == pytest.approx((1, 1))
    assert spearman([(i, -i) for i in range(20)]).rho == pytest.approx(-1)


def test_spearman_interval_contains_rho_and_depends_on_the_seed_alone():
    points = [(i, (7 * i) % 11) for i in range(11)]
    found = spearman(points, seed=3)
    assert found == spearman(points, seed=3)
    assert found.low < found.rho < found.high
    assert (found.low, found.high) != (spearman(points, seed=4).low, spearman(points, seed=4).high)


@pytest.mark.parametrize("correlation", [None, RankCorrelation(0.5, None, None, ((0.1, 0.2),))])
def test_comparison_from_json_reverses_to_json(correlation):
    comparison = Comparison(100, (Row("searched", 12), Row("LoRA")), "BitFit", correlation)
    assert Comparison.from_json(comparison.to_json()) == comparison
