"""The sampler of a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from glora_automl.budget import FeasibleRegion
from glora_automl.pipeline._context import Context
from glora_automl.recipes import SearchSettings
from glora_automl.samplers import EvolutionSampler, RepairedSampler
from glora_automl.search_space import SearchSpace

__all__ = ["create_sampler", "draw_region", "repaired", "sampler_of"]


def draw_region(
    space: SearchSpace,
    budget: int,
    search: SearchSettings,
    allowed: Mapping[str, Sequence[str]] | None = None,
) -> FeasibleRegion:
    """Return the region that random architectures of a search are drawn from.

    With one objective they are near the budget, where such a search ends. A Pareto front needs
    architectures of all sizes.
    """
    least = 0 if search.is_multi_objective else search.min_budget_fraction * budget
    return FeasibleRegion(space, budget, least, allowed)


def create_sampler(
    context: Context,
    initial: Sequence[Mapping[str, str]] = (),
    allowed: Mapping[str, Sequence[str]] | None = None,
) -> BaseSampler:
    """Return the sampler of a recipe.

    Args:
        context: The recipe on this machine.
        initial: First proposals of the evolution.
        allowed: Choices that the supernet has weights for, by dimension; all by default.
    """
    search, space = context.recipe.search, context.space
    region = draw_region(space, context.budget, search, allowed)
    return sampler_of(search, space, region, initial, context.recipe.seed)


def sampler_of(
    search: SearchSettings,
    space: SearchSpace,
    region: FeasibleRegion,
    initial: Sequence[Mapping[str, str]],
    seed: int,
) -> BaseSampler:
    """Return the sampler of search settings; proposals of Optuna's samplers are repaired.

    Args:
        search: The settings.
        space: The search space.
        region: The architectures that it may propose.
        initial: First proposals of the evolution.
        seed: Its seed.
    """
    if search.sampler == "evolution":
        return EvolutionSampler(
            population_size=search.population_size,
            n_parents=search.n_parents,
            mutation_fraction=search.mutation_fraction,
            mutation_prob=search.mutation_prob,
            search_space=space.distributions(),
            region=region,
            initial=initial,
            seed=seed,
        )
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda drawn: TPESampler(seed=drawn, n_startup_trials=search.population_size),
        "nsga2": lambda drawn: NSGAIISampler(seed=drawn, population_size=search.population_size),
        "random": lambda drawn: RandomSampler(seed=drawn),
    }
    return RepairedSampler(makers[search.sampler], space.distributions(), region, seed)


def repaired(
    sampler: BaseSampler, space: SearchSpace, region: FeasibleRegion, seed: int
) -> RepairedSampler:
    """Return a sampler of Optuna whose proposals are repaired into the budget.

    The sampler keeps its own state and random numbers, so it proposes the same trials after an
    interruption only if it depends on the finished trials alone.

    Args:
        sampler: The sampler.
        space: The search space.
        region: The architectures that it may propose.
        seed: Seed of the repairs.
    """
    return RepairedSampler(lambda _seed: sampler, space.distributions(), region, seed)
