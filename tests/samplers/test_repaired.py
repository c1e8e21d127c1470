"""Samplers of Optuna with repair."""

import pickle
from functools import partial

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BruteForceSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from glora_automl.samplers import RepairedSampler

SPACE = {f"x{i}": CategoricalDistribution([0, 1, 2, 3]) for i in range(10)} | {
    "single": CategoricalDistribution([1])
}


class Total:
    """A region of parameters with a sum up to a limit."""

    limit = 8

    def draw(self, rng):
        return self.repair({name: int(rng.integers(4)) for name in SPACE} | {"single": 1}, rng)

    def repair(self, params, rng, *, keep=()):
        params = dict(params)
        free = [n for n in params if n not in keep and n != "single"]
        while sum(params.values()) > self.limit and any(params[n] for n in free):
            params[rng.choice([n for n in free if params[n]])] -= 1
        return params


MAKERS = {
    "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=5),
    "multivariate tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=5, multivariate=True),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=5),
    "random": RandomSampler,
    "brute force": BruteForceSampler,  # takes the values that a trial already has
    "qmc": lambda seed: QMCSampler(
        seed=0,
        scramble=True,
        independent_sampler=RandomSampler(seed=seed),
        warn_independent_sampling=False,
    ),
}


def objective(trial):
    return sum(trial.suggest_categorical(name, dist.choices) for name, dist in SPACE.items())


def create_study(maker, storage=None, seed=0):
    sampler = RepairedSampler(MAKERS[maker], SPACE, Total(), seed)
    return optuna.create_study(sampler=sampler, storage=storage, direction="maximize")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("maker", MAKERS)
def test_repaired_sampler_proposes_inside_region(maker):
    study = create_study(maker)
    study.optimize(objective, n_trials=25)
    values = [trial.value for trial in study.trials]
    assert max(values) <= Total.limit
    assert len({tuple(t.params.values()) for t in study.trials}) > 15
    assert all(trial.params["single"] == 1 for trial in study.trials)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("maker", ["tpe", "multivariate tpe", "random"])
def test_repaired_sampler_after_interruption_repeats_trials(maker, tmp_path):
    whole = create_study(maker)
    whole.optimize(objective, n_trials=14)
    first = create_study(maker, storage=f"sqlite:///{tmp_path}/a.db")
    first.optimize(objective, n_trials=8)
    again = optuna.load_study(
        study_name=first.study_name,
        storage=first._storage,
        sampler=RepairedSampler(MAKERS[maker], SPACE, Total(), 0),
    )
    again.optimize(objective, n_trials=6)
    assert [t.params for t in again.trials] == [t.params for t in whole.trials]


def test_repaired_sampler_learns_from_repaired_trials():
    """TPE finds better parameters than random search."""

    def first_three(trial):
        objective(trial)
        return sum(trial.params[f"x{i}"] for i in range(3))

    found = {}
    for maker in ("tpe", "random"):
        values = []
        for seed in range(3):
            study = create_study(maker, seed=seed)
            study.optimize(first_three, n_trials=60)
            values.append(np.mean([t.value for t in study.trials[30:]]))
        found[maker] = np.mean(values)
    assert found["tpe"] > found["random"] + 0.5


def test_repaired_sampler_keeps_enqueued_parameters():
    study = create_study("random")
    study.enqueue_trial({"x0": 3, "x1": 3})
    study.optimize(objective, n_trials=1)
    assert (study.trials[0].params["x0"], study.trials[0].params["x1"]) == (3, 3)
    assert study.trials[0].value <= Total.limit


def test_repaired_sampler_after_failed_and_pruned_trials_continues():
    study = create_study("tpe")
    for state in (TrialState.FAIL, TrialState.PRUNED):
        study.tell(study.ask(), state=state)
    study.optimize(objective, n_trials=8)
    assert len(study.trials) == 10
    assert not study.sampler._samplers, "samplers of finished trials are dropped"


def test_repaired_sampler_is_picklable():
    sampler = RepairedSampler(partial(TPESampler, n_startup_trials=3), SPACE, Total(), 1)
    assert pickle.loads(pickle.dumps(sampler))._seed == 1
