"""What the trials of a search propose, and how a proposal is scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from glora_automl.pipeline._context import Setup
from glora_automl.pipeline._run import Run
from glora_automl.recipes import SearchSettings
from glora_automl.samplers import EvolutionSampler, RepairedSampler
from glora_automl.study import CONSTRAINT
from glora_automl.supernet import Scorer, Supernet
from glora_automl.training import Score
from glora_automl.workers import Evaluation, Meter

__all__ = ["Proposer", "create_sampler", "trial_values"]


def create_sampler(setup: Setup, initial: Sequence[Mapping[str, str]] = ()) -> BaseSampler:
    """The sampler of a recipe; those of Optuna have their proposals repaired into the budget.

    Args:
        setup: The recipe on this machine.
        initial: What the evolution proposes first.
    """
    search = setup.recipe.search
    space, seed = setup.space.distributions(), setup.recipe.seed
    if search.sampler == "evolution":
        return EvolutionSampler(
            population_size=search.population_size,
            n_parents=search.n_parents,
            mutation_fraction=search.mutation_fraction,
            mutation_prob=search.mutation_prob,
            search_space=space,
            region=setup.drawn,
            initial=initial,
            seed=seed,
        )
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda drawn: TPESampler(seed=drawn, n_startup_trials=search.population_size),
        "nsga2": lambda drawn: NSGAIISampler(seed=drawn, population_size=search.population_size),
        "random": lambda drawn: RandomSampler(seed=drawn),
    }
    return RepairedSampler(makers[search.sampler], space, setup.drawn, seed)


def trial_values(search: SearchSettings, score: Score, count: int) -> tuple[float, ...]:
    """The values of a trial, one for each objective.

    Args:
        search: Has the objectives.
        score: On the validation images.
        count: Trainable parameters.
    """
    quality = score.loss if search.metric == "loss" else score.accuracy
    return (quality, float(count)) if search.is_multi_objective else (quality,)


class Proposer:
    """Suggests a trial's architecture, and scores it with the supernet's weights.

    Args:
        run: The study.
        supernet: Its supernet.
    """

    def __init__(self, run: Run, supernet: Supernet) -> None:
        self._run = run
        setup = run.setup
        self._scorer = Scorer(
            supernet,
            *setup.validation,
            dtype=setup.scoring_type,
            compiled=setup.recipe.search.compile,
        )

    def __call__(self, trial: optuna.Trial) -> Callable[[], Evaluation]:
        """Suggest all parameters; returns what evaluates them."""
        setup = self._run.setup
        params = {
            dimension.name: trial.suggest_categorical(dimension.name, dimension.choices)
            for dimension in setup.space.dimensions
        }
        count = setup.space.count(params)
        if CONSTRAINT not in trial.user_attrs:  # a retried trial brings both along
            trial.set_constraint(CONSTRAINT, count - setup.budget)
            trial.set_user_attr(CONSTRAINT, count)
        return partial(self._score, params, count)

    @property
    def independent(self) -> Callable[[int, int], bool] | None:
        """For :func:`run_trials`: trials of a generation do not depend on each other.

        Only on a GPU, which would have to wait for sampler and storage; a CPU does their work
        itself.
        """
        search = self._run.setup.recipe.search
        if search.sampler != "evolution" or self._run.setup.device.type != "cuda":
            return None
        return lambda first, second: (
            first // search.population_size == second // search.population_size
        )

    def _score(self, params: dict[str, str], count: int) -> Evaluation:
        setup = self._run.setup
        begin, meter = time.perf_counter(), Meter(setup.device)
        found = self._scorer.score(setup.space.architecture(params))
        return Evaluation(
            trial_values(setup.recipe.search, found, count),
            {
                "validation_accuracy": found.accuracy,
                "validation_loss": found.loss,
                "validation_images": found.n_images,
                "seconds": round(time.perf_counter() - begin, 6),
                **meter.read(),
            },
        )
