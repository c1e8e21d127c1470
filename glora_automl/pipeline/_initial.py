"""What the first generation of a search begins with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from optuna.storages import BaseStorage

from glora_automl.architecture import Architecture, Choice, LayerShape
from glora_automl.errors import RecipeError, SearchSpaceError, StudyError
from glora_automl.pipeline._context import Setup
from glora_automl.presets import attention, lora
from glora_automl.search_space import group
from glora_automl.study import best_trials, front_of, load_study

__all__ = ["initial_presets", "warm_start"]


def initial_presets(setup: Setup) -> tuple[dict[str, str], ...]:
    """What people would try first, as far as it fits and is in the search space.

    It is for at most half of the first generation, so what turned out well comes first
    (docs/quality.md): LoRA in all layers, in the first half of them or in those of attention, alone
    and with the weight's vector in all layers, and LoRA in the layers of one kind, each at the
    highest rank that fits; then BitFit, SSF and other vectors, with LoRA or alone, and the same at
    lower ranks. Vectors that do not fit in all layers are in those of LoRA.

    Args:
        setup: What they are for.
    """
    search, space = setup.recipe.search, setup.space
    if search.sampler != "evolution" or not search.initial_presets:
        return ()
    shapes = space.shapes
    names = list(shapes)
    kinds = {name: group(name, "kind") for name in names}
    wide = [names, names[: len(names) // 2], list(attention(shapes))]
    narrow = [[n for n in names if kinds[n] == kind] for kind in dict.fromkeys(kinds.values())]
    texts = {text for d in space.dimensions if d.tensor == "B" for text in d.choices}
    ranks = sorted({Choice.parse(text).rank for text in texts} - {0}, reverse=True)

    def with_lora(parts: Iterable[Sequence[str]], vector: dict[str, str]) -> list[_Params]:
        """The highest rank that fits for each part; the others go to the end."""
        best: list[_Params] = []
        for part in filter(None, parts):
            placed = [
                fitting
                for layers in ((names, part) if vector else (names,))
                for rank in ranks
                if (fitting := _fitting(setup, _placed(shapes, part, rank, layers, vector)))
            ]
            best += placed[:1]
            lower.extend(placed[1:])
        return best

    def standalone(*vectors: dict[str, str]) -> list[_Params]:
        found = (_fitting(setup, Architecture.uniform(shapes, **vector)) for vector in vectors)
        return [params for params in found if params is not None]

    lower: list[_Params] = []
    weight, bias = {"A": "vector"}, {"E": "vector"}
    found = [*with_lora(wide, {}), *with_lora(wide, weight), *with_lora(narrow, {})]
    found += standalone(bias, weight | bias, weight, weight | bias | {"C": "vector"})
    found += [*with_lora(wide, bias), *with_lora(narrow, weight), *with_lora(narrow, bias)]
    different = {tuple(params.items()): params for params in (*found, *standalone({}), *lower)}
    return tuple(different.values())[: search.population_size // 2]


_Params = dict[str, str]
"""An architecture as Optuna sees it: for each dimension its choice."""


def _placed(
    shapes: Mapping[str, LayerShape],
    part: Sequence[str],
    rank: int,
    layers: Sequence[str],
    vector: Mapping[str, str],
) -> Architecture:
    """LoRA of a rank for B in one part of the layers, with vectors in others.

    Args:
        shapes: All layers.
        part: Those with LoRA.
        rank: Its rank.
        layers: Those with vectors.
        vector: Which vectors, by tensor.
    """
    ranked, vectors = lora(shapes, rank), Architecture.uniform(shapes, **vector)
    found = dict(Architecture.uniform(shapes)) | {name: vectors[name] for name in layers}
    return Architecture(found | {name: found[name]._replace(B=ranked[name].B) for name in part})


def _fitting(setup: Setup, architecture: Architecture) -> _Params | None:
    """What Optuna sees of an architecture; None if it is not in the space or over the budget."""
    try:
        params = setup.space.params(architecture)
    except SearchSpaceError:
        return None
    return params if setup.space.count(params) <= setup.budget else None


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
    most = max(1, search.population_size // 2)
    best = best_trials(study, most)
    if search.is_multi_objective and best:
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
