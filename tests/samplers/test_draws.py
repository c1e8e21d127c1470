"""The trials of a seed: recorded ones, and those of a reference sampler."""

import hashlib
import json

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from glora_automl.architecture import LayerShape
from glora_automl.budget import FeasibleRegion
from glora_automl.samplers import EvolutionSampler
from glora_automl.search_space import SearchSpace, load_search_space
from tests.samplers.reference import propose

SPACE = {
    "a": CategoricalDistribution(["x", "y", "z"]),
    "b": IntDistribution(0, 20, step=2),
    "c": FloatDistribution(1e-3, 1.0, log=True),
    "d": CategoricalDistribution(range(6)),
    "e": IntDistribution(1, 64, log=True),
}


def digest(study):
    """Return a digest of all parameters of all trials."""
    params = [
        {name: round(v, 9) if isinstance(v, float) else v for name, v in sorted(t.params.items())}
        for t in study.trials
    ]
    return hashlib.sha256(json.dumps(params).encode()).hexdigest()[:16]


def mixed(trial):
    a, b, c, d, e = (trial._suggest(name, dist) for name, dist in SPACE.items())
    trial.set_constraint("e", e - 40.0)
    if d == 5:
        raise optuna.TrialPruned
    if b == 20:
        raise ZeroDivisionError
    return b * (a != "y") + abs(c - 0.1) + d


@pytest.mark.parametrize(
    ("known", "recorded"), [(SPACE, "34d7d907fe2cd608"), (None, "7997c6b6501ef388")]
)
def test_sampler_with_seed_repeats_recorded_trials(known, recorded):
    sampler = EvolutionSampler(population_size=10, n_parents=3, search_space=known, seed=7)
    study = optuna.create_study(sampler=sampler)
    study.optimize(mixed, n_trials=60, catch=ZeroDivisionError)
    assert digest(study) == recorded
    last = study.trials[-1].params
    assert last.pop("c") == pytest.approx(0.015422856941121197)
    assert last == {"a": "y", "b": 0, "d": 0, "e": 22}


@pytest.fixture(scope="module")
def region():
    shapes = {f"blocks.{i}.fc{j}": LayerShape(16, 16) for i in range(2) for j in (1, 2)}
    space = SearchSpace(load_search_space("default"), shapes)
    return FeasibleRegion(space, space.maximum // 10)


def test_sampler_with_seed_and_region_repeats_recorded_trials(region):
    space = region.space.distributions()
    study = optuna.create_study(
        direction="maximize",
        sampler=EvolutionSampler(
            population_size=12, n_parents=4, search_space=space, region=region, seed=3
        ),
    )

    def objective(trial):
        return region.space.count(
            {name: trial.suggest_categorical(name, dist.choices) for name, dist in space.items()}
        )

    study.optimize(objective, n_trials=60)
    assert digest(study) == "cf3086fc7aa72cd7"


SMALL = {
    "a": CategoricalDistribution([0, 1, 2]),
    "b": IntDistribution(0, 3),
    "c": CategoricalDistribution(["x", "y"]),
}


@st.composite
def histories(draw):
    """Draw trials of any state, some of them retries."""
    trials = []
    for number in range(draw(st.integers(0, 20))):
        params = {
            name: draw(
                st.sampled_from(d.choices)
                if isinstance(d, CategoricalDistribution)
                else st.integers(d.low, d.high)
            )
            for name, d in SMALL.items()
        }
        state = draw(st.sampled_from([*[TrialState.COMPLETE] * 4, *TrialState]))
        if state in (TrialState.WAITING, TrialState.RUNNING) and draw(st.booleans()):
            params = {"a": params["a"]}
        is_retry = draw(st.integers(0, 4)) == 0 and number > 0
        trials.append(
            optuna.create_trial(
                state=state,
                value=draw(st.integers(-3, 3)) if state == TrialState.COMPLETE else None,
                params=params,
                distributions={name: SMALL[name] for name in params},
                constraints={"c": float(draw(st.integers(-1, 1)))} if draw(st.booleans()) else {},
                system_attrs={"failed_trial": draw(st.integers(0, number - 1))} if is_retry else {},
            )
        )
    return trials


@settings(max_examples=50, deadline=None)
@given(
    trials=histories(),
    direction=st.sampled_from(["minimize", "maximize"]),
    population_size=st.integers(1, 8),
    n_parents=st.integers(1, 4),
    mutation_fraction=st.sampled_from([0.0, 0.5, 1.0]),
    at_once=st.booleans(),
)
def test_sampler_on_random_history_equals_reference(
    trials, direction, population_size, n_parents, mutation_fraction, at_once
):
    sampler = EvolutionSampler(
        population_size=population_size,
        n_parents=n_parents,
        mutation_fraction=mutation_fraction,
        search_space=SMALL,
        seed=5,
    )
    study = optuna.create_study(direction=direction, sampler=sampler)
    for trial in trials:
        study.add_trial(trial)
        if not at_once:  # the cache of the sampler must not matter
            check(study, sampler, population_size, n_parents, mutation_fraction)
    check(study, sampler, population_size, n_parents, mutation_fraction)


def check(study, sampler, population_size, n_parents, mutation_fraction):
    trial = study.ask()  # the first enqueued trial, if any
    expected = propose(
        study.get_trials(),
        trial.number,
        SMALL,
        seed=5,
        population_size=population_size,
        n_parents=n_parents,
        mutation_fraction=mutation_fraction,
        mutation_prob=0.2,
        sign=1.0 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1.0,
    )
    assert sampler.sample_relative(study, trial._cached_frozen_trial, dict(SMALL)) == expected
    study.tell(trial, state=TrialState.FAIL)
