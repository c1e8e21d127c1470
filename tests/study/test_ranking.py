"""Which trials are the best, and which are on the front."""

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from glora_automl.study._ranking import best_of, best_trials, front_of

MAXIMIZE = StudyDirection.MAXIMIZE
SPACE = {"x": CategoricalDistribution([str(i) for i in range(100)])}


def trial(number, value, parameters, budget=100, state=TrialState.COMPLETE, x=None):
    made = optuna.create_trial(
        value=value,
        params={"x": str(number if x is None else x)},
        distributions=SPACE,
        user_attrs={"trainable_params": parameters},
        constraints={"trainable_params": parameters - budget},
        state=state,
    )
    made.number = number
    return made


def numbers(trials):
    return [t.number for t in trials]


def test_best_of_takes_feasible_ones_with_different_parameters():
    trials = [trial(0, 0.5, 10), trial(1, 0.9, 101), trial(2, 0.7, 20), trial(3, 0.7, 20, x=2)]
    assert numbers(best_of(trials, MAXIMIZE, 5)) == [2, 0]
    assert numbers(best_of(trials, StudyDirection.MINIMIZE, 1)) == [0]


def test_the_front_is_by_size_and_has_the_earlier_of_equals():
    trials = [
        trial(0, 0.5, 10),
        trial(1, 0.9, 101),  # over the budget
        trial(2, 0.7, 50),
        trial(3, 0.7, 50),
        trial(4, 0.6, 60),  # less for more
        trial(5, 0.8, 99, state=TrialState.PRUNED),
        trial(6, 0.4, 0),
    ]
    assert numbers(front_of(trials, MAXIMIZE)) == [6, 0, 2]
    assert front_of(trials[1:2], MAXIMIZE) == []


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 15)), max_size=30),
    st.sampled_from(list(StudyDirection)[1:]),
)
def test_the_front_is_what_nothing_beats(points, direction):
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    trials = [trial(i, float(v), c, budget=12) for i, (v, c) in enumerate(points)]
    front = front_of(trials, direction)
    feasible = {(sign * v, c) for v, c in points if c <= 12}
    expected = {
        (v, c)
        for v, c in feasible
        if not any(w <= v and d <= c and (w, d) != (v, c) for w, d in feasible)
    }
    assert {(sign * t.value, t.user_attrs["trainable_params"]) for t in front} == expected
    assert len(front) == len(expected)
    assert front == sorted(front, key=lambda t: t.user_attrs["trainable_params"])


@pytest.mark.parametrize(("within", "expected"), [(None, [1, 0]), (15, [0]), (5, [])])
def test_best_trials_within_a_smaller_budget(within, expected):
    study = optuna.create_study(direction="maximize")
    for number, (value, parameters) in enumerate([(0.5, 10), (0.8, 20)]):
        study.add_trial(trial(number, value, parameters))
    assert numbers(best_trials(study, 5, within=within)) == expected
