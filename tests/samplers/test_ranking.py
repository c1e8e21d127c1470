import math

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from glora_automl.samplers import is_feasible, pareto_front, sort_trials
from glora_automl.samplers._ranking import crowding_distances, param_key
from tests.samplers import reference

MINIMIZE, MAXIMIZE = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE


def make_trials(points, violations=None, params=None):
    trials = []
    for number, point in enumerate(points):
        trial = optuna.create_trial(
            state=TrialState.COMPLETE,
            values=[float(value) for value in point],
            params={"x": number if params is None else params[number]},
            distributions={"x": IntDistribution(0, 1000)},
            constraints={"c": float(violations[number] if violations else -1.0)},
        )
        trial.number = number
        trials.append(trial)
    return trials


def best(points, n_trials, *, directions=None, **options):
    """Return the numbers of the best trials."""
    directions = directions or [MINIMIZE] * len(points[0])
    found = sort_trials(make_trials(points, **options), directions, n_trials)
    return [trial.number for trial in found]


point_sets = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.tuples(*[st.integers(0, 6)] * width), min_size=1, max_size=25)
)


@given(point_sets)
def test_pareto_front_equals_brute_force(points):
    assert pareto_front(np.array([])).tolist() == []
    (front, *_) = reference.constrained_fronts(points, [0] * len(points))
    assert np.flatnonzero(pareto_front(np.array(points, dtype=float))).tolist() == front


@given(point_sets, st.integers(1, 25), st.data())
def test_sort_trials_takes_whole_fronts_and_least_crowded_of_last(points, count, data):
    violations = data.draw(
        st.lists(st.sampled_from([0, 0, 1, 2]), min_size=len(points), max_size=len(points))
    )
    chosen = best(points, count, violations=violations)
    assert len(chosen) == len(set(chosen)) == min(count, len(points))
    for front in reference.constrained_fronts(points, violations):
        took, chosen = chosen[: len(front)], chosen[len(front) :]
        assert set(took) <= set(front)
        if took and len(took) < len(front):
            distances = crowding_distances(np.array([points[i] for i in front], dtype=float))
            left = [d for i, d in zip(front, distances, strict=True) if i not in took]
            assert min(d for i, d in zip(front, distances, strict=True) if i in took) >= max(left)
            assert not chosen


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=20))
def test_crowding_distances_of_distinct_values_equal_brute_force(points):
    by_first = {point[0]: point for point in points}
    points = list({point[1]: point for point in by_first.values()}.values())
    assert crowding_distances(np.array(points, dtype=float)) == pytest.approx(
        reference.crowding_distances(points)
    )


def test_sort_trials_with_infinite_values_returns_front():
    points = np.array([[-math.inf, 3], [0, 2], [1, 1], [math.inf, 0]])
    assert not np.isnan(crowding_distances(points)).any()
    assert crowding_distances(np.full((3, 2), math.inf)).tolist() == [0, 0, 0]
    assert best([(math.inf, 0), (0, math.inf), (1, 1)], 3) == [0, 1, 2]


def test_sort_trials_follows_directions():
    points = [(0.9, 10), (0.9, 5), (0.5, 1), (0.4, 2)]
    assert set(best(points, 2, directions=[MAXIMIZE, MINIMIZE])) == {1, 2}


def test_sort_trials_removes_duplicates():
    points = [(0, 9), (0, 9), (1, 8), (9, 0), (5, 5)]
    assert set(best(points, 4, params=[7, 7, 2, 3, 4])) == {0, 2, 3, 4}
    points = [(0, 9), (9, 0), (1, 10), (4, 9)]  # the third is worse than the first
    assert set(best(points, 3, params=[7, 3, 7, 4])) == {0, 1, 3}
    assert best([(2,), (1,), (3,)], 2, params=[5, 5, 6]) == [1, 2]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from([-1, 0, 1, 2])), min_size=1, max_size=25),
    st.sampled_from([MINIMIZE, MAXIMIZE]),
    st.integers(0, 26),
)
def test_sort_trials_by_one_objective_follows_violation_value_and_number(entries, direction, count):
    sign = 1 if direction == MINIMIZE else -1
    expected = sorted(
        range(len(entries)), key=lambda i: (max(0, entries[i][1]), sign * entries[i][0], i)
    )
    values, constraints = zip(*entries, strict=True)
    found = best(
        [(v, 0) for v in values], count, violations=constraints, directions=[direction]
    )  # the second objective is ignored
    assert found == expected[:count]


def test_sort_trials_ignores_trials_that_are_not_complete():
    trials = make_trials([(1,), (2,)])
    running = optuna.create_trial(state=TrialState.RUNNING)
    pruned = optuna.create_trial(state=TrialState.PRUNED, value=0.0)
    assert sort_trials([running, *trials, pruned], [MAXIMIZE]) == trials[::-1]
    assert sort_trials([running, pruned], [MAXIMIZE]) == []


def test_is_feasible_needs_every_constraint():
    for constraints, expected in (
        ({}, True),
        ({"a": 0, "b": -1}, True),
        ({"a": 1, "b": -2}, False),
    ):
        trial = optuna.create_trial(value=0.0, constraints=constraints)
        assert is_feasible(trial) == expected


@given(st.lists(st.integers(0, 3), min_size=3, max_size=3), st.integers(1, 4))
def test_sort_trials_with_fewer_trials_returns_all(values, extra):
    assert set(best([(v,) for v in values], 3 + extra)) == {0, 1, 2}


def test_param_key_of_unhashable_values_compares_them():
    assert param_key({"x": [1, 2], "y": 3}) == param_key({"y": 3, "x": [1, 2]})
    assert param_key({"x": [1, 2]}) != param_key({"x": [2, 1]})
    assert param_key({"x": 1}) != param_key({"y": 1})
