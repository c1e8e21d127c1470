"""What the first generation of a search begins with."""

from __future__ import annotations

import itertools

import numpy as np
from optuna.storages import BaseStorage

from glora_automl.architecture import Architecture, Choice
from glora_automl.errors import RecipeError, SearchSpaceError, StudyError
from glora_automl.search_space import group
from glora_automl.study._best import best_trials, front_of
from glora_automl.study._given import attention, lora, loras, ssf
from glora_automl.study._setup import Setup
from glora_automl.study._study import load_study

__all__ = ["hand_picked", "warm_start"]


def hand_picked(setup: Setup) -> tuple[dict[str, str], ...]:
    """What people would try first, as far as it fits and is in the search space.

    The largest first, for at most half of the first generation: LoRA of one rank in all layers, in
    either half of them or in the layers of one kind (where it does not fit in all, in those of
    attention, too), alone or with a vector in all layers, that of the bias (BitFit) or that of the
    weight; BitFit, SSF and GLoRA's vectors alone.

    Args:
        setup: What they are for.
    """
    search, space = setup.recipe.search, setup.space
    if search.sampler != "evolution" or not search.hand_picked:
        return ()
    shapes = space.shapes
    names = list(shapes)
    half = len(names) // 2
    parts = [names, names[:half], names[half:]]
    kinds = {name: group(name, "kind") for name in names}
    parts += [[n for n in names if kinds[n] == kind] for kind in dict.fromkeys(kinds.values())]
    if not loras(shapes, setup.budget):
        parts.append(list(attention(shapes)))  # a control
    nothing = Architecture.uniform(shapes)
    uniform = [
        nothing,
        Architecture.uniform(shapes, E="vector"),
        ssf(shapes),
        Architecture.uniform(shapes, A="vector", C="vector", E="vector"),
    ]
    texts = {text for d in space.dimensions if d.tensor == "B" for text in d.choices}
    vectors = [{}, {"E": "vector"}, {"A": "vector"}]
    for rank in sorted({Choice.parse(text).rank for text in texts} - {0}):
        ranked = lora(shapes, rank)
        for part, vector in itertools.product(parts, vectors):
            with_vector = Architecture.uniform(shapes, **vector)
            placed = {name: with_vector[name]._replace(B=ranked[name].B) for name in part}
            uniform.append(Architecture({**with_vector, **placed}))
    sizes: dict[tuple[tuple[str, str], ...], int] = {}
    for architecture in uniform:
        try:
            params = space.params(architecture)
        except SearchSpaceError:
            continue
        if (count := space.count(params)) <= setup.budget:
            sizes.setdefault(tuple(params.items()), count)
    largest = sorted(sizes, key=lambda items: -sizes[items])
    return tuple(dict(items) for items in largest[: search.population // 2])


def warm_start(storage: BaseStorage, name: str, setup: Setup) -> tuple[dict[str, str], ...]:
    """The best architectures of an earlier study, for half of the first generation.

    Where few parameters are an objective, too, they are spread over the earlier study's front.

    Args:
        storage: Where the earlier study is.
        name: Its name.
        setup: What they are for. Its budget may be another one: they are repaired into it.

    Raises:
        StudyError: If there is no such study.
        RecipeError: If it has another search space, or the sampler knows no generations.
    """
    search = setup.recipe.search
    if search.sampler != "evolution":
        raise RecipeError(
            f"A warm start needs search.sampler = 'evolution', got {search.sampler!r}; leave out "
            "--warm-start."
        )
    study = load_study(storage, name)
    most = max(1, search.population // 2)
    best = best_trials(study, most)
    if search.trades_off and best:
        front = front_of(study.get_trials(deepcopy=False), study.directions[0])
        spread = np.linspace(0, len(front) - 1, min(most, len(front)))
        best = [front[i] for i in spread.round().astype(int)]
    choices = {dimension.name: dimension.choices for dimension in setup.space.dimensions}
    for trial in best:
        for key in sorted(set(choices) | set(trial.params)):
            if trial.params.get(key) not in choices.get(key, ()):
                raise RecipeError(
                    f"A warm start must come from a study of the same search space; that of "
                    f"{name!r} has {key} = {trial.params.get(key)!r}, here it may be "
                    f"{', '.join(choices.get(key, ())) or 'nothing'}; leave out --warm-start."
                )
    if not best:
        raise StudyError(
            f"A warm start needs complete trials, the study {name!r} has none within its budget; "
            "leave out --warm-start."
        )
    return tuple(dict(trial.params) for trial in best)
