"""First proposals of a search: presets, and the best architectures of an earlier study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from optuna.storages import BaseStorage

from glora_automl.architecture import Architecture, Choice, LayerShape
from glora_automl.errors import RecipeError, SearchSpaceError, StudyError
from glora_automl.pipeline._context import Context
from glora_automl.presets import attention, lora
from glora_automl.search_space import SearchSpace, group
from glora_automl.study import best_trials, load_study, pareto_trials

__all__ = [
    "initial_presets",
    "pack_proposals",
    "preset_proposals",
    "unpack_proposals",
    "warm_start_proposals",
]

Params = dict[str, str]
"""An architecture as Optuna sees it: one choice per dimension."""


def initial_presets(context: Context) -> tuple[Params, ...]:
    """Return the presets of the first generation, in at most half of its places."""
    search = context.recipe.search
    if search.sampler != "evolution" or not search.initial_presets:
        return ()
    found = preset_proposals(context.space, context.budget)
    return found[: search.population_size // 2]


def preset_proposals(space: SearchSpace, budget: int) -> tuple[Params, ...]:
    """Return presets of a search space within a budget, the most promising ones first.

    The order follows measurements (docs/benchmarks/quality.md): LoRA in all layers, in the first
    half of them or in those of attention, alone and with the weight's vector in all layers; LoRA in
    the layers of one kind, each at the highest rank that fits; BitFit, SSF and other vectors, with
    LoRA or alone; the same at lower ranks. Vectors that do not fit in all layers are in those of
    LoRA.

    Args:
        space: The search space.
        budget: The most trainable parameters.
    """
    shapes = space.shapes
    names = list(shapes)
    kinds = {name: group(name, "kind") for name in names}
    wide = [names, names[: len(names) // 2], list(attention(shapes))]
    narrow = [[n for n in names if kinds[n] == kind] for kind in dict.fromkeys(kinds.values())]
    texts = {text for d in space.dimensions if d.tensor == "B" for text in d.choices}
    ranks = sorted({Choice.parse(text).rank for text in texts} - {0}, reverse=True)

    def with_lora(parts: Iterable[Sequence[str]], vector: dict[str, str]) -> list[Params]:
        """Return the highest rank that fits for each part; lower ones are kept for the end."""
        best: list[Params] = []
        for part in filter(None, parts):
            placed = [
                fitting
                for layers in ((names, part) if vector else (names,))
                for rank in ranks
                if (fitting := _fit(space, budget, _place(shapes, part, rank, layers, vector)))
            ]
            best += placed[:1]
            lower.extend(placed[1:])
        return best

    def vectors(*choices: dict[str, str]) -> list[Params]:
        found = (_fit(space, budget, Architecture.uniform(shapes, **choice)) for choice in choices)
        return [params for params in found if params is not None]

    lower: list[Params] = []
    weight, bias = {"A": "vector"}, {"E": "vector"}
    found = [*with_lora(wide, {}), *with_lora(wide, weight), *with_lora(narrow, {})]
    found += vectors(bias, weight | bias, weight, weight | bias | {"C": "vector"})
    found += [*with_lora(wide, bias), *with_lora(narrow, weight), *with_lora(narrow, bias)]
    different = {tuple(params.items()): params for params in (*found, *vectors({}), *lower)}
    return tuple(different.values())


def pack_proposals(space: SearchSpace, proposals: Iterable[Params]) -> tuple[str, ...]:
    """Return proposals as texts with one character per dimension: the number of its choice.

    The names of 240 dimensions would take 8 KB per proposal, and MySQL has 64 KiB per attribute.

    Args:
        space: The search space.
        proposals: The proposals.
    """
    return tuple(
        "".join(chr(_ZERO + d.choices.index(params[d.name])) for d in space.dimensions)
        for params in proposals
    )


_ZERO = ord("0")


def unpack_proposals(space: SearchSpace, texts: Iterable[str]) -> list[Params]:
    """Return the proposals of :func:`pack_proposals`.

    Raises:
        StudyError: If a text is not of this search space.
    """
    proposals: list[Params] = []
    for text in texts:
        numbers = [ord(character) - _ZERO for character in text]
        if len(numbers) != len(space.dimensions) or not all(
            0 <= number < len(d.choices)
            for number, d in zip(numbers, space.dimensions, strict=True)
        ):
            raise StudyError(
                f"A first proposal must have one of the choices of {len(space.dimensions)} "
                f"dimensions, got {text[:40]!r}. Choose another `name`: the study was altered."
            )
        proposals.append(
            {d.name: d.choices[n] for d, n in zip(space.dimensions, numbers, strict=True)}
        )
    return proposals


def _place(
    shapes: Mapping[str, LayerShape],
    part: Sequence[str],
    rank: int,
    layers: Sequence[str],
    vector: Mapping[str, str],
) -> Architecture:
    """Return LoRA of one rank for B in some layers, with vectors in others.

    Args:
        shapes: All layers.
        part: Layers with LoRA.
        rank: Its rank.
        layers: Layers with vectors.
        vector: The vectors, by tensor.
    """
    ranked, vectors = lora(shapes, rank), Architecture.uniform(shapes, **vector)
    found = dict(Architecture.uniform(shapes)) | {name: vectors[name] for name in layers}
    return Architecture(found | {name: found[name]._replace(B=ranked[name].B) for name in part})


def _fit(space: SearchSpace, budget: int, architecture: Architecture) -> Params | None:
    """Return an architecture's parameters; None outside of the space or over the budget."""
    try:
        params = space.params(architecture)
    except SearchSpaceError:
        return None
    return params if space.count(params) <= budget else None


def warm_start_proposals(storage: BaseStorage, name: str, context: Context) -> tuple[Params, ...]:
    """Return the best architectures of an earlier study, for half of the first generation.

    With few parameters as an objective, they are spread over the earlier study's Pareto front.

    Args:
        storage: Storage of the earlier study.
        name: Its name.
        context: The new study. Its budget may differ: the sampler repairs proposals into it.

    Raises:
        StudyError: If the study does not exist or has no feasible trial.
        RecipeError: If it has another search space, or the sampler has no generations.
    """
    search = context.recipe.search
    if search.sampler != "evolution":
        raise RecipeError(
            f"search.sampler must be 'evolution' for a warm start, got {search.sampler!r}. Leave "
            "out `warm_start`."
        )
    study = load_study(storage, name, argument="warm_start")
    most = max(1, search.population_size // 2)
    best = best_trials(study, most)
    if search.is_multi_objective and best:
        front = pareto_trials(study.get_trials(deepcopy=False), study.directions[0])
        spread = np.linspace(0, len(front) - 1, min(most, len(front)))
        best = [front[i] for i in spread.round().astype(int)]
    choices = {dimension.name: dimension.choices for dimension in context.space.dimensions}
    for trial in best:
        for key in sorted(set(choices) | set(trial.params)):
            if trial.params.get(key) not in choices.get(key, ()):
                raise RecipeError(
                    f"warm_start must be a study of the same search space, got {name!r} with {key} "
                    f"= {trial.params.get(key)!r}. Leave out `warm_start`."
                )
    if not best:
        raise StudyError(
            f"warm_start must be a study with a complete trial within its budget, got {name!r}. "
            "Leave out `warm_start`."
        )
    return tuple(dict(trial.params) for trial in best)
