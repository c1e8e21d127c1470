import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import PartialFixedSampler
from optuna.trial import TrialState

from glora_automl.samplers import EvolutionSampler
from glora_automl.samplers._region import repair_around

NAMES = tuple("abcdef")
LIMIT = 12


class Total:
    """At most 12 in all; any of them may be lowered."""

    def draw(self, rng):
        return self.repair({name: int(rng.integers(10)) for name in NAMES}, rng)

    def repair(self, params, rng):
        params = {name: params[name] for name in NAMES}
        while sum(params.values()) > LIMIT:
            params[rng.choice([name for name in NAMES if params[name]])] -= 1
        return params


class KeepingTotal(Total):
    """One that knows what it must not change."""

    def repair(self, params, rng, *, keep=()):
        params = {name: params[name] for name in NAMES}
        while sum(params.values()) > LIMIT:
            free = {n: v for n, v in params.items() if n not in keep and v > 0}
            if not free:
                break
            params[max(free, key=free.get)] -= 1
        return params


REGIONS = pytest.mark.parametrize("region", [Total(), KeepingTotal()], ids=["plain", "keeping"])
values = st.fixed_dictionaries(dict.fromkeys(NAMES, st.integers(0, 9)))


@REGIONS
@given(params=values, names=st.sets(st.sampled_from(NAMES)), seed=st.integers(0, 99))
def test_what_is_fixed_stays_and_the_rest_makes_room(region, params, names, seed):
    fixed = {name: params[name] for name in names}
    repaired = repair_around(region, params, fixed, np.random.default_rng(seed))
    assert {name: repaired[name] for name in names} == fixed
    if isinstance(region, KeepingTotal):
        assert sum(repaired.values()) <= max(LIMIT, sum(fixed.values()))
    elif sum(fixed.values()) <= LIMIT - 6:  # room enough to be found by trying
        assert sum(repaired.values()) <= LIMIT
    if sum(params.values()) <= LIMIT:
        assert repaired == params


def make(region, **options):
    space = {name: IntDistribution(0, 9) for name in NAMES}
    return EvolutionSampler(
        **{
            "population_size": 8,
            "n_parents": 3,
            "search_space": space,
            "region": region,
            "seed": 0,
            **options,
        }
    )


def biggest(trial):
    return sum(trial.suggest_int(name, 0, 9) for name in NAMES)


def totals(study):
    return [sum(trial.params.values()) for trial in study.trials]


@REGIONS
def test_the_rest_of_queued_trials_makes_room_for_what_is_fixed(region):
    study = optuna.create_study(direction="maximize", sampler=make(region))
    for number in range(24):
        study.enqueue_trial({"a": 5, "b": number % 4})
    study.optimize(biggest, n_trials=24)
    assert [(t.params["a"], t.params["b"]) for t in study.trials] == [(5, n % 4) for n in range(24)]
    assert max(totals(study)) <= LIMIT
    assert len({tuple(t.params.values()) for t in study.trials}) > 20


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@REGIONS
def test_the_rest_makes_room_for_what_another_sampler_fixes(region):
    sampler = PartialFixedSampler({"c": 6}, PartialFixedSampler({"f": 3}, make(region)))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(biggest, n_trials=24)
    assert {(t.params["c"], t.params["f"]) for t in study.trials} == {(6, 3)}
    assert max(totals(study)) <= LIMIT


@REGIONS
def test_fixed_values_that_no_distribution_has_do_no_harm(region):
    study = optuna.create_study(sampler=make(region))
    study.enqueue_trial({"a": 50})
    with pytest.warns(UserWarning, match="out of range"):
        study.optimize(biggest, n_trials=1)
    assert study.trials[0].params["a"] == 50


@REGIONS
def test_a_retry_under_other_circumstances_stays_in_the_region(region):
    study = optuna.create_study(direction="maximize", sampler=make(region))
    study.optimize(biggest, n_trials=8)
    retried = optuna.create_trial(
        state=TrialState.WAITING,
        params={"a": 9},
        distributions={"a": IntDistribution(0, 9)},
        system_attrs={"failed_trial": 0},
    )
    study.add_trial(retried)
    study.optimize(biggest, n_trials=1)
    assert study.trials[-1].params["a"] == 9
    assert totals(study)[-1] <= LIMIT


def test_parameters_with_one_value_count():
    space = {name: IntDistribution(0, 9) for name in NAMES} | {"f": IntDistribution(7, 7)}
    study = optuna.create_study(direction="maximize", sampler=make(Total(), search_space=space))
    study.optimize(
        lambda trial: sum(trial._suggest(name, dist) for name, dist in space.items()), n_trials=24
    )
    assert max(totals(study)) <= LIMIT


def test_parameters_outside_of_the_region_evolve_with_the_others():
    space = {name: IntDistribution(0, 9) for name in NAMES}
    space["other"] = CategoricalDistribution(range(1000))
    sampler = make(Total(), search_space=space, mutation_fraction=0.0)
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def objective(trial):
        return sum(trial._suggest(name, dist) for name, dist in space.items())

    study.optimize(objective, n_trials=16)
    assert all(sum(t.params[name] for name in NAMES) <= LIMIT for t in study.trials)
    first = {t.params["other"] for t in study.trials[:8]}
    # One of them may be drawn anew, where a child of all parents was seen.
    assert sum(t.params["other"] in first for t in study.trials[8:]) >= 6


def test_parameters_that_somebody_else_chooses_later_are_guessed():
    sampler = make(Total())
    study = optuna.create_study(sampler=sampler)
    study.optimize(biggest, n_trials=10)
    some = {name: IntDistribution(0, 9) for name in NAMES[:4]}
    for _ in range(10):
        proposal = sampler.sample_relative(study, study.ask()._cached_frozen_trial, some)
        assert set(proposal) == set(some)
        assert sum(proposal.values()) <= LIMIT
