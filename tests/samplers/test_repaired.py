"""Optuna's samplers under a budget."""

from functools import partial

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from glora_automl.samplers import RepairedSampler

SPACE = {f"x{i}": CategoricalDistribution([0, 1, 2, 3]) for i in range(10)} | {
    "single": CategoricalDistribution([1])
}


class Total:
    """The sum must not be above a limit."""

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
    "qmc": lambda seed: QMCSampler(
        seed=0,
        scramble=True,
        independent_sampler=RandomSampler(seed=seed),
        warn_independent_sampling=False,
    ),
}


def objective(trial):
    return sum(trial.suggest_categorical(name, dist.choices) for name, dist in SPACE.items())


def study_of(maker, storage=None, seed=0):
    sampler = RepairedSampler(MAKERS[maker], SPACE, Total(), seed)
    return optuna.create_study(sampler=sampler, storage=storage, direction="maximize")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("maker", MAKERS)
def test_no_proposal_leaves_the_region(maker):
    study = study_of(maker)
    study.optimize(objective, n_trials=25)
    values = [trial.value for trial in study.trials]
    assert max(values) <= Total.limit
    assert len({tuple(t.params.values()) for t in study.trials}) > 15
    assert all(trial.params["single"] == 1 for trial in study.trials)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("maker", ["tpe", "multivariate tpe", "random"])
def test_an_interrupted_study_goes_on_as_if_it_had_not_been(maker, tmp_path):
    whole = study_of(maker)
    whole.optimize(objective, n_trials=14)
    first = study_of(maker, storage=f"sqlite:///{tmp_path}/a.db")
    first.optimize(objective, n_trials=8)
    again = optuna.load_study(
        study_name=first.study_name,
        storage=first._storage,
        sampler=RepairedSampler(MAKERS[maker], SPACE, Total(), 0),
    )
    again.optimize(objective, n_trials=6)
    assert [t.params for t in again.trials] == [t.params for t in whole.trials]


def test_the_sampler_learns_from_what_was_evaluated():
    """TPE finds more of what pays than chance does."""

    def pays(trial):
        objective(trial)
        return sum(trial.params[f"x{i}"] for i in range(3))

    found = {}
    for maker in ("tpe", "random"):
        values = []
        for seed in range(3):
            study = study_of(maker, seed=seed)
            study.optimize(pays, n_trials=60)
            values.append(np.mean([t.value for t in study.trials[30:]]))
        found[maker] = np.mean(values)
    assert found["tpe"] > found["random"] + 0.5


def test_enqueued_values_are_kept():
    study = study_of("random")
    study.enqueue_trial({"x0": 3, "x1": 3})
    study.optimize(objective, n_trials=1)
    assert (study.trials[0].params["x0"], study.trials[0].params["x1"]) == (3, 3)
    assert study.trials[0].value <= Total.limit


def test_failed_and_pruned_trials_do_no_harm():
    study = study_of("tpe")
    for state in (TrialState.FAIL, TrialState.PRUNED):
        study.tell(study.ask(), state=state)
    study.optimize(objective, n_trials=8)
    assert len(study.trials) == 10
    assert not study.sampler._samplers, "nothing is kept of trials that are finished"


def test_it_goes_to_other_processes():
    import pickle

    sampler = RepairedSampler(partial(TPESampler, n_startup_trials=3), SPACE, Total(), 1)
    assert pickle.loads(pickle.dumps(sampler))._seed == 1
