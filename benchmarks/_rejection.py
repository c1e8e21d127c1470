"""The search of the GLoRA paper, reimplemented: evolution with a budget by drawing again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from glora_automl.search_space import SearchSpace

DRAWS = 1000
"""Draws until a candidate is accepted in any case; the paper's code has no limit."""


def rejection(
    space: SearchSpace,
    budget: int,
    evaluate: Callable[[dict[str, str], int], float],
    *,
    evaluations: int,
    rng: np.random.Generator,
    population_size: int = 50,
    n_parents: int = 10,
    allowed: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Search for the highest value; candidates above the budget are drawn again.

    Args:
        space: The search space.
        budget: The most trainable parameters.
        evaluate: Returns the value of parameters and their count; called per candidate in order.
        evaluations: Number of candidates; infeasible ones count.
        rng: Generator of the draws.
        population_size: Candidates per generation.
        n_parents: Best candidates that become parents.
        allowed: Choices by dimension; all by default.
    """
    dimensions = space.dimensions
    choices = [
        [c for c in d.choices if allowed is None or c in allowed[d.name]] for d in dimensions
    ]
    widths = np.array([len(names) for names in choices])
    costs = np.zeros((len(dimensions), max(widths)), dtype=int)
    for row, (dimension, names) in enumerate(zip(dimensions, choices, strict=True)):
        known = dict(zip(dimension.choices, dimension.costs, strict=True))
        costs[row, : len(names)] = [known[name] for name in names]
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
            params = {d.name: n[g] for d, n, g in zip(dimensions, choices, genes, strict=True)}
            count = size(genes)
            ranking.append((count > budget, -evaluate(params, count), done, genes))
            done += 1
            if done == evaluations:
                return
        ranking = sorted(ranking, key=lambda entry: entry[:3])[:n_parents]
        parents = [genes for *_, genes in ranking]
        draws = [mutate] * (population_size // 2) + [cross] * (
            population_size - population_size // 2
        )
        generation = [admit(draw) for draw in draws]
