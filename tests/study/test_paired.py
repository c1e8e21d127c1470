"""The bound of a loss in accuracy, by exact sums over all outcomes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from glora_automl.study import _paired
from glora_automl.study._paired import accuracy_loss_bound, beats, n_images_needed

MOST = 50
"""Lost or gained images that are enumerated; the rest has hardly any probability."""


@pytest.mark.parametrize("n_images", [60, 150, 200, 500])
def test_accuracy_loss_bound_covers_the_true_loss(n_images):
    lost, gained = np.meshgrid(np.arange(MOST), np.arange(MOST), indexing="ij")
    bounds = np.array(
        [
            [accuracy_loss_bound(i, min(j, n_images - i), n_images) for j in range(MOST)]
            for i in range(MOST)
        ]
    )
    coverages = []
    for loss in np.linspace(0, 0.04, 33):
        for p_gained in (0, 0.001, 0.005, 0.01, 0.015, 0.02):
            p_lost = p_gained + loss
            probability = binom.pmf(lost, n_images, p_lost) * binom.pmf(
                gained, np.maximum(n_images - lost, 0), p_gained / (1 - p_lost)
            )
            assert probability.sum() > 0.999
            coverages.append(probability[bounds >= loss].sum())
    assert min(coverages) > 0.938
    assert 0.95 < np.mean(coverages) < 0.99  # a bound of 1 would cover everything


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_accuracy_loss_bound_is_above_the_difference_and_rises_with_losses(data):
    n_images = data.draw(st.integers(1, 2000))
    lost = data.draw(st.integers(0, n_images))
    gained = data.draw(st.integers(0, n_images - lost))
    bound = accuracy_loss_bound(lost, gained, n_images)
    assert (lost - gained) / n_images <= bound <= 1
    if lost + gained < n_images:
        assert accuracy_loss_bound(lost + 1, gained, n_images) >= bound - 1e-9
        assert accuracy_loss_bound(lost, gained + 1, n_images) <= bound + 1e-9


@pytest.mark.parametrize("n_images", [1, 7, 1218, 1219, 5003, 20011])
def test_accuracy_loss_bound_with_all_images_gained_is_near_minus_one(n_images):
    bound = accuracy_loss_bound(0, n_images, n_images)
    assert -1 <= bound <= -1 + 10 / n_images


@pytest.mark.parametrize(("lost", "gained", "n_images"), [(12, 2, 44), (1, 1, 80), (5, 9, 300)])
def test_accuracy_loss_bound_equals_the_score_interval_by_definition(lost, gained, n_images):
    expected = reference(lost, gained, n_images)
    assert accuracy_loss_bound(lost, gained, n_images) == pytest.approx(expected, abs=1e-5)


def reference(lost, gained, n_images):
    """Return Tango's bound by a search over losses, with the likelihood maximised numerically."""
    z = 1.6448536269514722
    losses = np.linspace((lost - gained) / n_images, 1, 400001)[1:-1]
    # Probability of a gained image that maximises the likelihood under each loss.
    q = np.full_like(losses, 0.0)
    low, high = np.zeros_like(losses), (1 - losses) / 2
    for _ in range(80):
        q = (low + high) / 2
        slope = (
            lost / (q + losses) + gained / q - 2 * (n_images - lost - gained) / (1 - 2 * q - losses)
        )
        low, high = np.where(slope > 0, q, low), np.where(slope > 0, high, q)
    score = (lost - gained - n_images * losses) / np.sqrt(
        n_images * (2 * q + losses * (1 - losses))
    )
    return losses[np.argmax(score <= -z)]


@pytest.mark.parametrize(("lost", "gained", "margin"), [(0, 0, 0.01), (4, 4, 0.01), (6, 2, 0.03)])
def test_n_images_needed_brings_the_bound_near_the_margin(lost, gained, margin):
    needed = n_images_needed(lost, gained, 200, margin)
    factor = needed / 200
    bound = accuracy_loss_bound(round(lost * factor), round(gained * factor), needed)
    assert bound == pytest.approx(margin, rel=0.15)


def test_n_images_needed_of_a_difference_above_the_loss_is_none():
    assert n_images_needed(4, 2, 200, 0.01) is None
    assert n_images_needed(4, 2, 200, 0.0101) is not None
    assert n_images_needed(0, 0, 10, 1.0) == 1


def test_beats_calls_equal_models_better_in_at_most_one_case_of_fifteen():
    generator = np.random.default_rng(0)
    labels = np.arange(150) % 5
    found = []
    for _ in range(1000):
        wrong = generator.random((2, 150)) < 0.2
        shifted = (labels + generator.integers(1, 5, (2, 150))) % 5
        one, other = np.where(wrong, shifted, labels)
        found.append(beats(labels, one, other))
    assert 0 < np.mean(found) < 1 / 15


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "kappa"])
def test_beats_by_another_metric_takes_more_than_a_few_images(metric, monkeypatch):
    monkeypatch.setattr(_paired, "N_RESAMPLES", 199)
    labels = np.arange(100) % 4
    wrong = (labels + 1) % 4
    place = np.arange(100)
    one, other = (np.where(chosen, wrong, labels) for chosen in (place < 20, place >= 78))
    assert not beats(labels, one, other, metric)
    assert not beats(labels, other, one, metric)
    assert beats(labels, one, wrong, metric)


@pytest.mark.parametrize("n_per_class", [1, 2, 15])
def test_beats_by_another_metric_rarely_tells_equal_models_apart(n_per_class, monkeypatch):
    """Few images per class once made every difference a proof, as resamples could not vary."""
    monkeypatch.setattr(_paired, "N_RESAMPLES", 99)
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), n_per_class)
    found = []
    for _ in range(40):
        wrong = generator.random((2, len(labels))) < 0.3
        shifted = (labels + generator.integers(1, 20, (2, len(labels)))) % 20
        found.append(beats(labels, *np.where(wrong, shifted, labels), "balanced_accuracy"))
    assert np.mean(found) < 0.15


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "auroc", "log_loss", "kappa"])
def test_beats_of_a_model_and_itself_is_false(metric):
    labels = np.arange(30) % 3
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], 30)
    assert not beats(labels, probabilities, probabilities, metric)


def test_beats_where_the_metric_is_undefined_is_false():
    labels = np.zeros(10, dtype=int)
    one, other = np.array([[0.9, 0.1]] * 10), np.array([[0.1, 0.9]] * 10)
    assert not beats(labels, one, other, "auroc")


def test_beats_among_several_models_takes_more():
    labels = np.zeros(40, dtype=int)
    other, one = labels.copy(), labels.copy()
    other[:4] = 1  # four images gained, none lost
    assert beats(labels, one, other)
    assert not beats(labels, one, other, n_tests=3)
    other[4:8] = 1
    assert beats(labels, one, other, n_tests=3)
