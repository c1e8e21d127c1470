"""Racing: what is stopped, how often wrongly, and what is saved."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom
from torch import nn

from glora_automl.supernet import evaluate, race
from glora_automl.supernet._racing import stopping_rule


def images_of(right):
    """Images and labels for ``nn.Flatten`` as the model, which is right where it is told."""
    right = torch.as_tensor(right)
    labels = torch.ones(len(right), dtype=torch.int64)
    return torch.eye(2)[right.long()][:, :, None, None] * 3, labels


@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(1, 300), share=st.floats(0, 1), error=st.sampled_from([0.0, 0.01, 0.1, 0.5])
)
def test_the_rule_keeps_its_error_rate_exactly(count, share, error):
    """The bound for each look, summed, from the distribution itself."""
    needed = max(1, math.ceil(share * count))
    rule = stopping_rule(count, needed, error)
    wrong = sum(hypergeom.cdf(most, count, needed, seen) for seen, most in rule)
    assert wrong <= error + 1e-9
    assert all(0 <= most < seen < count for seen, most in rule)
    for seen, most in rule:  # and it could not be laxer
        looser = hypergeom.cdf(most + 1, count, needed, seen)
        looks = 9 if count >= 16 else len({math.ceil(s / 16 * count) for s in range(16)})
        assert most + 1 + count - seen >= needed or looser == 0
        assert looser > error / max(looks, 1) or most + 1 + (count - seen) >= needed


@pytest.mark.parametrize("error", [0.0, 0.05])
def test_good_models_are_rarely_stopped_and_bad_ones_early(error):
    rng = np.random.default_rng(0)
    count, threshold = 200, 0.7
    seen = {0.3: [], 0.5: [], 0.7: [], 0.8: []}
    for accuracy, images in seen.items():
        right = np.arange(count) < accuracy * count
        for _ in range(300):
            x, y = images_of(rng.permutation(right))
            images.append(race(nn.Flatten(), x, y, threshold=threshold, error_rate=error).images)
    stopped = {accuracy: np.mean(np.array(images) < count) for accuracy, images in seen.items()}
    assert stopped[0.7] <= error
    assert stopped[0.8] <= error
    assert stopped[0.3] == 1.0
    if error:
        assert np.mean(seen[0.3]) < 50
        assert np.mean(seen[0.5]) < 110
    else:
        assert np.mean(seen[0.3]) > 50


@settings(max_examples=40, deadline=None)
@given(right=st.lists(st.booleans(), min_size=1, max_size=60), threshold=st.floats(0, 1))
def test_without_errors_the_verdict_is_that_of_all_images(right, threshold):
    x, y = images_of(right)
    full = evaluate(nn.Flatten(), x, y)
    found = race(nn.Flatten(), x, y, threshold=threshold, error_rate=0.0, batch_size=7)
    if found.images < len(right):
        assert full.accuracy < threshold
    else:
        assert found.accuracy == full.accuracy
        assert found.loss == pytest.approx(full.loss)


def test_a_partial_score_is_that_of_the_images_that_were_seen():
    x, y = images_of([False] * 30 + [True] * 70)
    found = race(nn.Flatten(), x, y, threshold=0.9, error_rate=0.05)
    assert found.images < 100
    assert found == evaluate(nn.Flatten(), x[: found.images], y[: found.images])


def test_a_threshold_of_nothing_sees_everything():
    x, y = images_of([False] * 50)
    assert race(nn.Flatten(), x, y, threshold=0.0, error_rate=0.5).images == 50


def test_the_mode_of_the_model_is_restored():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).train()
    x, y = images_of([True] * 20)
    race(model, x, y, threshold=0.9, error_rate=0.1)
    assert model.training
    assert model[1].training
