"""Truncations of a wide supernet: the norms of its components, and the largest for a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from glora_automl.adapters import GLoRALinear
from glora_automl.architecture import TENSORS, Architecture, Choice
from glora_automl.search_space import Dimension, SearchSpace
from glora_automl.supernet._supernet import Supernet

__all__ = [
    "allowed_choices",
    "component_norms",
    "is_truncation",
    "order_factors",
    "truncate",
    "widest_architecture",
]


def widest_architecture(space: SearchSpace) -> Architecture:
    """Return the architecture with the most parameters for each support tensor.

    Example:
        >>> from glora_automl.architecture import LayerShape
        >>> from glora_automl.search_space import load_search_space
        >>> space = SearchSpace(load_search_space("lean"), {"fc": LayerShape(32, 32)})
        >>> print(widest_architecture(space))
        fc: A=vector B=lora-8 C=vector E=vector
    """
    return space.architecture(
        {d.name: d.choices[max(range(len(d.choices)), key=d.costs.__getitem__)]
         for d in space.dimensions}
    )  # fmt: skip


def is_truncation(choice: Choice, of: Choice) -> bool:
    """Return whether a choice keeps a part of another one.

    Example:
        >>> lora = Choice.parse("lora-4")
        >>> [is_truncation(Choice.parse(c), lora) for c in ("none", "lora-2", "lora-8", "vector")]
        [True, True, False, False]
    """
    if choice.kind in ("none", of.kind):
        return choice.kind != "lora" or choice.rank <= of.rank
    return False


def allowed_choices(space: SearchSpace, architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Return the choices of each dimension that are truncations of an architecture.

    Args:
        space: The search space.
        architecture: An architecture of the space.
    """
    params = space.params(architecture)
    return {
        d.name: tuple(
            choice
            for choice in d.choices
            if is_truncation(Choice.parse(choice), Choice.parse(params[d.name]))
        )
        for d in space.dimensions
    }


def order_factors(supernet: Supernet) -> None:
    """Replace all products by their balanced singular value decompositions, in place."""
    for layer in supernet.layers.values():
        layer.order_factors()


@torch.no_grad()
def component_norms(
    supernet: Supernet, architecture: Architecture
) -> dict[str, dict[str, list[float]]]:
    """Return the squared Frobenius norm of each component's change of weight or bias.

    A component is a pair of a column and a row of a product, a vector or a scalar.

    Args:
        supernet: The trained supernet with ordered factors.
        architecture: Its components are measured; it becomes the active one.

    Returns:
        For each layer and support tensor one norm per component, in the order of the factors.
    """
    supernet.activate(architecture)
    return {
        name: {tensor: _norms(layer, tensor) for tensor in TENSORS}
        for name, layer in supernet.layers.items()
    }


def _norms(layer: GLoRALinear, tensor: str) -> list[float]:
    choice: Choice = getattr(layer.active, tensor)
    if choice.kind == "none":
        return []
    weight = layer.linear.weight.flatten(1)
    frozen_bias = weight[:, 0] if layer.linear.bias is None else layer.linear.bias
    if choice.kind == "lora":
        left = getattr(layer, f"{tensor}_left")[:, : choice.rank]
        right = getattr(layer, f"{tensor}_right")[: choice.rank]
        parts = [left[:, k, None] * right[None, k] for k in range(choice.rank)]
    else:
        parts = [getattr(layer, f"{tensor}_{choice.kind}").expand(_size(layer, tensor))[:, None]]
    changes = {
        "A": lambda part: weight * part,
        "B": lambda part: part.expand_as(weight),
        "C": lambda part: weight @ part,
        "D": lambda part: frozen_bias[:, None] * part,
        "E": lambda part: part,
    }
    return [float(changes[tensor](part).square().sum()) for part in parts]


def _size(layer: GLoRALinear, tensor: str) -> int:
    return layer.in_features if tensor == "C" else layer.out_features


def truncate(
    space: SearchSpace,
    architecture: Architecture,
    norms: Mapping[str, Mapping[str, Sequence[float]]],
    budget: int,
) -> Architecture:
    """Return the truncation of an architecture with the largest components per parameter.

    Dimensions are widened in steps from their cheapest choice, always the one with the largest
    gain per parameter that still fits: a global threshold on norm per parameter.

    Args:
        space: The search space.
        architecture: The architecture to truncate.
        norms: Of :func:`component_norms`.
        budget: The most trainable parameters, at least ``space.minimum``.

    Example:
        >>> from glora_automl.architecture import LayerShape
        >>> from glora_automl.search_space import load_search_space
        >>> shapes = {"fc1": LayerShape(8, 8), "fc2": LayerShape(8, 8)}
        >>> spec = load_search_space("lean")
        >>> space = SearchSpace(spec, shapes)
        >>> wide = Architecture.uniform(shapes, B="lora-4")
        >>> norms = {"fc1": {"B": [4.0, 3.0, 0.2, 0.1]}, "fc2": {"B": [5.0, 0.3, 0.2, 0.1]}}
        >>> print(truncate(space, wide, norms, budget=48))
        fc1: B=lora-2
        fc2: B=lora-1
    """
    allowed = allowed_choices(space, architecture)
    costs = {d.name: dict(zip(d.choices, d.costs, strict=True)) for d in space.dimensions}
    params = {d.name: min(d.choices, key=costs[d.name].__getitem__) for d in space.dimensions}
    gains = {d.name: {c: _norm(d, c, norms) for c in allowed[d.name]} for d in space.dimensions}
    for name, choice in params.items():
        gains[name].setdefault(choice, 0.0)  # the cheapest one, where it is no truncation
    left = budget - space.count(params)
    while True:
        best: tuple[float, str, str] | None = None
        for name, now in params.items():
            for choice in allowed[name]:
                cost = costs[name][choice] - costs[name][now]
                if not 0 < cost <= left:
                    continue
                ratio = (gains[name][choice] - gains[name][now]) / cost
                if ratio > 0 and (best is None or ratio > best[0]):
                    best = ratio, name, choice
        if best is None:
            return space.architecture(params)
        _, name, choice = best
        left -= costs[name][choice] - costs[name][params[name]]
        params[name] = choice


def _norm(
    dimension: Dimension, choice: str, norms: Mapping[str, Mapping[str, Sequence[float]]]
) -> float:
    """Return the summed norm of a choice's components over the layers of its dimension."""
    kept = Choice.parse(choice)
    if kept.kind == "none":
        return 0.0
    n_components = kept.rank if kept.kind == "lora" else 1
    return sum(
        sum(norms.get(layer, {}).get(dimension.tensor, ())[:n_components])
        for layer in dimension.layers
    )
