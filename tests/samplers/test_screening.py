import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection

from glora_automl.samplers._ranking import score
from glora_automl.samplers._screening import Screen, _ridge

SPACE = {
    "kind": CategoricalDistribution(["a", "b", "c"]),
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "depth": IntDistribution(0, 10),
}


def worth(params):
    rate = (np.log10(params["rate"]) + 2) ** 2
    return 3.0 * (params["kind"] != "b") + rate + 0.1 * (params["depth"] - 4) ** 2


def draw(rng):
    return {
        "kind": "abc"[rng.integers(3)],
        "rate": float(10 ** rng.uniform(-4, 0)),
        "depth": int(rng.integers(11)),
    }


def scored(many, values, rng, constraint=None, objectives=1):
    made = []
    for number in range(many):
        params = draw(rng)
        constraints = {} if constraint is None else {"c": constraint(params)}
        trial = optuna.create_trial(
            values=np.atleast_1d(values(params)).tolist(),
            params=params,
            distributions=SPACE,
            constraints=constraints,
        )
        trial.number = number
        made.append(score(trial, [StudyDirection.MINIMIZE] * objectives))
    return made


@pytest.mark.parametrize("seed", range(5))
def test_the_forecast_finds_the_best_of_a_sum(seed):
    rng = np.random.default_rng(seed)
    screen = Screen(scored(60, lambda p: worth(p) + rng.normal(0, 0.01), rng), SPACE)
    proposals = [draw(rng) for _ in range(40)]
    best = sorted(worth(params) for params in proposals)
    assert worth(screen.choose(proposals, rng)) <= best[2]


def test_what_would_violate_a_constraint_is_not_chosen():
    rng = np.random.default_rng(0)

    def depth(params):
        return params["depth"] - 4.5

    screen = Screen(scored(60, lambda p: -p["depth"], rng, constraint=depth), SPACE)
    for _ in range(10):
        assert screen.choose([draw(rng) for _ in range(40)], rng)["depth"] == 4


def test_several_objectives_are_weighed_at_random():
    rng = np.random.default_rng(0)
    trials = scored(60, lambda p: [p["depth"], 10 - p["depth"]], rng, objectives=2)
    screen = Screen(trials, SPACE)
    proposals = [{"kind": "a", "rate": 0.1, "depth": depth} for depth in range(11)]
    chosen = {screen.choose(proposals, rng)["depth"] for _ in range(100)}
    assert len(chosen) > 4


def test_trials_that_say_nothing_are_left_out():
    rng = np.random.default_rng(0)
    usable = scored(60, worth, rng)
    foreign = optuna.create_trial(
        value=-1e9, params={"kind": "a"}, distributions={"kind": SPACE["kind"]}
    )
    infinite = scored(1, lambda p: -np.inf, rng)
    trials = [*usable, score(foreign, [StudyDirection.MINIMIZE]), *infinite]
    proposals = [draw(rng) for _ in range(20)]
    with_them, without = (Screen(t, SPACE).choose(proposals, rng) for t in (trials, usable))
    assert with_them == without
    assert Screen(trials[60:], SPACE).choose(proposals, rng) == proposals[0]


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 999))
def test_the_ridge_is_that_of_the_normal_equations(many, columns, seed):
    rng = np.random.default_rng(seed)
    rows, targets = rng.normal(size=(many, columns)), rng.normal(size=(many, 1))
    rows, targets = rows - rows.mean(axis=0), targets - targets.mean(axis=0)
    weights = _ridge(rows, targets)
    # The ridge that was taken is one of those that were tried.
    fits = [
        np.linalg.solve(rows.T @ rows + ridge * np.eye(columns), rows.T @ targets)
        for ridge in np.geomspace(1e-3, 1e4, 15)
    ]
    assert min(np.abs(weights - fit).max() for fit in fits) < 1e-6
