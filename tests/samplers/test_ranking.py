import math

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from glora_automl.samplers._ranking import best, crowding, identity, pareto_front, score
from tests.samplers import reference

MINIMIZE, MAXIMIZE = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE


def scored(points, violations=None, params=None, directions=None):
    made = []
    for number, point in enumerate(points):
        trial = optuna.create_trial(
            state=TrialState.COMPLETE,
            values=[float(value) for value in point],
            params={"x": number if params is None else params[number]},
            distributions={"x": IntDistribution(0, 1000)},
            constraints={"c": float(violations[number] if violations else -1.0)},
        )
        trial.number = number
        made.append(score(trial, directions or [MINIMIZE] * len(point)))
    return made


def numbers(trials):
    return [trial.number for trial in trials]


point_sets = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.tuples(*[st.integers(0, 6)] * width), min_size=1, max_size=25)
)


@given(point_sets)
def test_the_front_is_that_of_brute_force(points):
    (front, *_) = reference.constrained_fronts(points, [0] * len(points))
    assert np.flatnonzero(pareto_front(np.array(points, dtype=float))).tolist() == front


@given(point_sets, st.integers(1, 25), st.data())
def test_the_best_are_whole_fronts_and_the_least_crowded_of_the_last(points, count, data):
    violations = data.draw(
        st.lists(st.sampled_from([0, 0, 1, 2]), min_size=len(points), max_size=len(points))
    )
    chosen = numbers(best(scored(points, violations), count))
    assert len(chosen) == len(set(chosen)) == min(count, len(points))
    for front in reference.constrained_fronts(points, violations):
        took, chosen = chosen[: len(front)], chosen[len(front) :]
        assert set(took) <= set(front)
        if took and len(took) < len(front):
            distances = crowding(np.array([points[i] for i in front], dtype=float))
            left = [d for i, d in zip(front, distances, strict=True) if i not in took]
            assert min(d for i, d in zip(front, distances, strict=True) if i in took) >= max(left)
            assert not chosen


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=20))
def test_crowding_is_that_of_brute_force_where_values_differ(points):
    by_first = {point[0]: point for point in points}
    points = list({point[1]: point for point in by_first.values()}.values())
    assert crowding(np.array(points, dtype=float)) == pytest.approx(reference.crowding(points))


def test_infinite_values_can_be_compared():
    points = np.array([[-math.inf, 3], [0, 2], [1, 1], [math.inf, 0]])
    assert not np.isnan(crowding(points)).any()
    assert crowding(np.full((3, 2), math.inf)).tolist() == [0, 0, 0]
    assert numbers(best(scored([(math.inf, 0), (0, math.inf), (1, 1)]), 3)) == [0, 1, 2]


def test_directions_count():
    points = [(0.9, 10), (0.9, 5), (0.5, 1), (0.4, 2)]
    found = best(scored(points, directions=[MAXIMIZE, MINIMIZE]), 2)
    assert set(numbers(found)) == {1, 2}


def test_what_was_evaluated_twice_takes_one_place():
    points = [(0, 9), (0, 9), (1, 8), (9, 0), (5, 5)]
    found = numbers(best(scored(points, params=[7, 7, 2, 3, 4]), 4))
    assert set(found) == {0, 2, 3, 4}
    points = [(0, 9), (9, 0), (1, 10), (4, 9)]  # the third is worse than the first
    assert set(numbers(best(scored(points, params=[7, 3, 7, 4]), 3))) == {0, 1, 3}
    assert numbers(best(scored([(2,), (1,), (3,)], params=[5, 5, 6]), 2)) == [1, 2]


@given(st.lists(st.integers(0, 3), min_size=3, max_size=3), st.integers(1, 4))
def test_fewer_trials_than_places_are_all_taken(values, extra):
    assert set(numbers(best(scored([(v,) for v in values]), 3 + extra))) == {0, 1, 2}


def test_values_that_cannot_be_hashed_have_an_identity():
    assert identity({"x": [1, 2], "y": 3}) == identity({"y": 3, "x": [1, 2]})
    assert identity({"x": [1, 2]}) != identity({"x": [2, 1]})
    assert identity({"x": 1}) != identity({"y": 1})
