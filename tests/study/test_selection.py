"""Which of the best is chosen."""

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glora_automl.architecture import Architecture
from glora_automl.study._selection import Candidate, apart, mcnemar, rank
from glora_automl.supernet import Score


def candidate(trial, right, parameters, loss=1.0):
    right = torch.tensor(right, dtype=torch.bool)
    score = Score(right.float().mean().item(), loss, len(right))
    return Candidate(score, right, parameters, trial, Architecture({}))


GOOD, BAD = [True] * 60 + [False] * 40, [True] * 30 + [False] * 70


def numbers(candidates, significance):
    return [c.trial for c in rank(candidates, significance)]


def test_the_best_is_chosen_without_a_test():
    found = [candidate(0, BAD, 1), candidate(1, GOOD, 9), candidate(2, GOOD, 5, loss=2.0)]
    assert numbers(found, 1.0) == [1, 2, 0]


def test_among_those_that_cannot_be_told_apart_the_smallest_wins():
    nearly = [True] * 58 + [False] * 42
    found = [candidate(0, GOOD, 9), candidate(1, nearly, 5), candidate(2, BAD, 1)]
    assert mcnemar(found[0].right, found[1].right) == 0.5
    assert numbers(found, 0.05) == [1, 0, 2]
    assert numbers(found, 0.6) == [0, 1, 2]


def test_what_differs_in_few_images_of_many_is_told_apart():
    """The same two accuracies: it matters on which images they differ."""
    one = [True] * 60 + [False] * 40
    paired = [True] * 50 + [False] * 50
    crossed = [False] * 35 + [True] * 25 + [True] * 25 + [False] * 15
    assert mcnemar(torch.tensor(one), torch.tensor(paired)) < 0.01
    assert mcnemar(torch.tensor(one), torch.tensor(crossed)) > 0.2


def test_equally_small_ones_are_ordered_by_quality():
    found = [candidate(0, GOOD, 5, loss=3.0), candidate(1, GOOD, 5, loss=2.0)]
    assert numbers(found, 0.05) == [1, 0]


def test_the_equally_accurate_are_ordered_by_calibrated_loss_where_it_is_known():
    found = [candidate(0, GOOD, 5, loss=3.0), candidate(1, GOOD, 5, loss=2.0)]
    found = [
        c._replace(score=c.score._replace(calibrated=calibrated))
        for c, calibrated in zip(found, (0.5, 0.6), strict=True)
    ]
    assert numbers(found, 1.0) == [0, 1]


def test_siblings_take_part_only_where_places_are_left():
    study = optuna.create_study()
    choices = optuna.distributions.CategoricalDistribution(["none", "vector"])
    for ones in ([], [0], [0, 1], [0, 1, 2], [5], [5, 6]):
        params = {f"x{i}": "vector" if i in ones else "none" for i in range(20)}
        study.add_trial(
            optuna.trial.create_trial(
                value=0.0, params=params, distributions=dict.fromkeys(params, choices)
            )
        )
    trials = study.trials

    def taken(places):
        return [trial.number for trial in apart(trials, places)]

    # Those that differ from all before them in two of the twenty choices.
    assert taken(2) == [0, 2]
    assert taken(3) == [0, 2, 5]
    assert taken(5) == [0, 2, 5, 1, 3]
    assert taken(9) == [0, 2, 5, 1, 3, 4]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_the_test_is_the_exact_binomial_one(pairs):
    from math import comb

    first, second = (torch.tensor([p[i] for p in pairs], dtype=torch.bool) for i in (0, 1))
    a = sum(x and not y for x, y in pairs)
    n = a + sum(y and not x for x, y in pairs)
    tail = sum(comb(n, i) for i in range(min(a, n - a) + 1)) / 2**n
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(second, first) == pytest.approx(mcnemar(first, second))
