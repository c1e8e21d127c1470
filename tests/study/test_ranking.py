"""The best trials of a study and its Pareto front."""

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from glora_automl.study._ranking import best_trials, pareto_trials

MAXIMIZE = StudyDirection.MAXIMIZE
SPACE = {"x": CategoricalDistribution([str(i) for i in range(100)])}


def trial(number, value, n_params, budget=100, state=TrialState.COMPLETE, x=None):
    trial = optuna.create_trial(
        value=value,
        params={"x": str(number if x is None else x)},
        distributions=SPACE,
        user_attrs={"trainable_params": n_params},
        constraints={"trainable_params": n_params - budget},
        state=state,
    )
    trial.number = number
    return trial


def numbers(trials):
    return [t.number for t in trials]


def test_best_trials_are_feasible_and_distinct():
    trials = [trial(0, 0.5, 10), trial(1, 0.9, 101), trial(2, 0.7, 20), trial(3, 0.7, 20, x=2)]
    for direction, n_trials, expected in (("maximize", 5, [2, 0]), ("minimize", 1, [0])):
        study = optuna.create_study(direction=direction)
        study.add_trials(trials)
        assert numbers(best_trials(study, n_trials)) == expected


def test_pareto_trials_are_sorted_by_n_params_and_hold_earliest():
    trials = [
        trial(0, 0.5, 10),
        trial(1, 0.9, 101),  # over the budget
        trial(2, 0.7, 50),
        trial(3, 0.7, 50),
        trial(4, 0.6, 60),  # dominated
        trial(5, 0.8, 99, state=TrialState.PRUNED),
        trial(6, 0.4, 0),
    ]
    assert numbers(pareto_trials(trials, MAXIMIZE)) == [6, 0, 2]
    assert pareto_trials(trials[1:2], MAXIMIZE) == []


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 15)), max_size=30),
    st.sampled_from(list(StudyDirection)[1:]),
)
def test_pareto_trials_equal_brute_force(points, direction):
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    trials = [trial(i, float(v), c, budget=12) for i, (v, c) in enumerate(points)]
    front = pareto_trials(trials, direction)
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
def test_best_trials_within_smaller_budget_are_fewer(within, expected):
    study = optuna.create_study(direction="maximize")
    for number, (value, n_params) in enumerate([(0.5, 10), (0.8, 20)]):
        study.add_trial(trial(number, value, n_params))
    assert numbers(best_trials(study, 5, within=within)) == expected


def test_trials_without_number_of_parameters_are_left_out_where_it_counts():
    study = optuna.create_study(direction="maximize")
    study.add_trial(trial(0, 0.5, 10))
    study.add_trial(optuna.create_trial(value=0.9, params={"x": "1"}, distributions=SPACE))
    assert numbers(best_trials(study, 5, within=50)) == [0]
    assert numbers(pareto_trials(study.trials, MAXIMIZE)) == [0]
    assert numbers(best_trials(study, 5)) == [1, 0]


@pytest.mark.parametrize(
    ("within", "fullness", "expected"),
    [(None, 0.9, [2, 1]), (None, 0.0, [0, 2, 1]), (17, 0.9, [0])],
)
def test_best_trials_of_full_size_leave_smaller_ones_out(within, fullness, expected):
    study = optuna.create_study(direction="minimize")
    for number, (value, n_params) in enumerate([(0.1, 10), (0.8, 20), (0.7, 18), (0.0, 101)]):
        study.add_trial(trial(number, value, n_params))
    study.add_trial(trial(4, None, 90, state=TrialState.FAIL))
    assert numbers(best_trials(study, 5, within=within, fullness=fullness)) == expected


def test_best_trials_of_full_size_without_any_trial_are_none():
    assert best_trials(optuna.create_study(), 5, fullness=0.9) == []
