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
    """A region of parameters with a sum of at most 12."""

    def draw(self, rng):
        return self.repair({name: int(rng.integers(10)) for name in NAMES}, rng)

    def repair(self, params, rng):
        params = {name: params[name] for name in NAMES}
        while sum(params.values()) > LIMIT:
            params[rng.choice([name for name in NAMES if params[name]])] -= 1
        return params


class KeepingTotal(Total):
    """The same region with ``keep``."""

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
def test_repair_around_keeps_fixed_parameters(region, params, names, seed):
    fixed = {name: params[name] for name in names}
    repaired = repair_around(region, params, fixed, np.random.default_rng(seed))
    assert {name: repaired[name] for name in names} == fixed
    if isinstance(region, KeepingTotal):
        assert sum(repaired.values()) <= max(LIMIT, sum(fixed.values()))
    elif sum(fixed.values()) <= LIMIT - 6:  # random attempts find enough room
        assert sum(repaired.values()) <= LIMIT
    if sum(params.values()) <= LIMIT:
        assert repaired == params


def make_sampler(region, **options):
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


def total(trial):
    return sum(trial.suggest_int(name, 0, 9) for name in NAMES)


def totals(study):
    return [sum(trial.params.values()) for trial in study.trials]


@REGIONS
def test_sampler_with_enqueued_parameters_repairs_the_others(region):
    study = optuna.create_study(direction="maximize", sampler=make_sampler(region))
    for number in range(24):
        study.enqueue_trial({"a": 5, "b": number % 4})
    study.optimize(total, n_trials=24)
    assert [(t.params["a"], t.params["b"]) for t in study.trials] == [(5, n % 4) for n in range(24)]
    assert max(totals(study)) <= LIMIT
    assert len({tuple(t.params.values()) for t in study.trials}) > 20


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@REGIONS
def test_sampler_with_partial_fixed_sampler_repairs_the_others(region):
    sampler = PartialFixedSampler({"c": 6}, PartialFixedSampler({"f": 3}, make_sampler(region)))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(total, n_trials=24)
    assert {(t.params["c"], t.params["f"]) for t in study.trials} == {(6, 3)}
    assert max(totals(study)) <= LIMIT


@REGIONS
def test_sampler_with_fixed_value_out_of_range_warns(region):
    study = optuna.create_study(sampler=make_sampler(region))
    study.enqueue_trial({"a": 50})
    with pytest.warns(UserWarning, match="out of range"):
        study.optimize(total, n_trials=1)
    assert study.trials[0].params["a"] == 50


@REGIONS
def test_sampler_for_retry_with_other_parents_stays_in_region(region):
    study = optuna.create_study(direction="maximize", sampler=make_sampler(region))
    study.optimize(total, n_trials=8)
    retried = optuna.create_trial(
        state=TrialState.WAITING,
        params={"a": 9},
        distributions={"a": IntDistribution(0, 9)},
        system_attrs={"failed_trial": 0},
    )
    study.add_trial(retried)
    study.optimize(total, n_trials=1)
    assert study.trials[-1].params["a"] == 9
    assert totals(study)[-1] <= LIMIT


def test_sampler_with_single_valued_parameter_stays_in_region():
    space = {name: IntDistribution(0, 9) for name in NAMES} | {"f": IntDistribution(7, 7)}
    study = optuna.create_study(
        direction="maximize", sampler=make_sampler(Total(), search_space=space)
    )
    study.optimize(
        lambda trial: sum(trial._suggest(name, dist) for name, dist in space.items()), n_trials=24
    )
    assert max(totals(study)) <= LIMIT


def test_sampler_inherits_parameters_outside_region():
    space = {name: IntDistribution(0, 9) for name in NAMES}
    space["other"] = CategoricalDistribution(range(1000))
    sampler = make_sampler(Total(), search_space=space, mutation_fraction=0.0)
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def objective(trial):
        return sum(trial._suggest(name, dist) for name, dist in space.items())

    study.optimize(objective, n_trials=16)
    assert all(sum(t.params[name] for name in NAMES) <= LIMIT for t in study.trials)
    first = {t.params["other"] for t in study.trials[:8]}
    # Some may be drawn again, as crossovers may be duplicates.
    assert sum(t.params["other"] in first for t in study.trials[8:]) >= 6


def test_sampler_of_partial_space_stays_in_region():
    sampler = make_sampler(Total())
    study = optuna.create_study(sampler=sampler)
    study.optimize(total, n_trials=10)
    some = {name: IntDistribution(0, 9) for name in NAMES[:4]}
    for _ in range(10):
        proposal = sampler.sample_relative(study, study.ask()._cached_frozen_trial, some)
        assert set(proposal) == set(some)
        assert sum(proposal.values()) <= LIMIT
