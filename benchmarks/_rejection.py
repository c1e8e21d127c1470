"""The search of the GLoRA paper, written anew: evolution under a budget by drawing again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from glora_automl.search_space import SearchSpace

DRAWS = 1000
"""After so many a candidate is taken as it is; the paper's code would go on for ever."""


def rejection(
    space: SearchSpace,
    budget: int,
    evaluate: Callable[[dict[str, str], int], float],
    *,
    evaluations: int,
    rng: np.random.Generator,
    population_size: int = 50,
    top: int = 10,
) -> None:
    """Search for the highest value; candidates above the budget are drawn again.

    Args:
        space: The search space.
        budget: The most trainable parameters.
        evaluate: Gives the value of parameters and their count; told each candidate in order.
        evaluations: How many candidates; infeasible ones count.
        rng: Draws.
        population_size: Candidates a generation.
        top: Best candidates that become parents.
    """
    dimensions = space.dimensions
    widths = np.array([len(d.choices) for d in dimensions])
    costs = np.array([[*d.costs, *[0] * (max(widths) - len(d.costs))] for d in dimensions])
    rows = np.arange(len(dimensions))

    def size(genes: np.ndarray) -> int:
        return space.fixed_count + int(costs[rows, genes].sum())

    def admit(draw: Callable[[], np.ndarray]) -> np.ndarray:
        for _ in range(DRAWS):
            genes = draw()
            if size(genes) <= budget:
                break
        return genes

    def mutate() -> np.ndarray:
        parent = parents[rng.integers(len(parents))]
        fresh = rng.random(len(widths)) < 0.2
        return np.where(fresh, rng.integers(widths), parent)

    def cross() -> np.ndarray:
        one, other = (parents[rng.integers(len(parents))] for _ in range(2))
        return np.where(rng.random(len(widths)) < 0.5, one, other)

    generation = [admit(lambda: rng.integers(widths)) for _ in range(population_size)]
    ranking: list[tuple[bool, float, int, np.ndarray]] = []
    done = 0
    while True:
        for genes in generation:
            names = {d.name: d.choices[g] for d, g in zip(dimensions, genes, strict=True)}
            count = size(genes)
            ranking.append((count > budget, -evaluate(names, count), done, genes))
            done += 1
            if done == evaluations:
                return
        ranking = sorted(ranking, key=lambda entry: entry[:3])[:top]
        parents = [genes for *_, genes in ranking]
        draws = [mutate] * (population_size // 2) + [cross] * (
            population_size - population_size // 2
        )
        generation = [admit(draw) for draw in draws]
