"""Attach support tensors to the layers of any module, and take them off again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import nn

from glora_automl.adapters._layer import GLoRALinear
from glora_automl.architecture import Architecture, Choice, LayerShape
from glora_automl.errors import ArchitectureError, LayerError

__all__ = [
    "activate",
    "adapted_layers",
    "attach",
    "classifiers",
    "detach",
    "is_adaptable",
    "linear_shapes",
]

M = TypeVar("M", bound=nn.Module)


def classifiers(model: nn.Module) -> list[nn.Module]:
    """The classifier modules that timm's ``get_classifier`` names: two for distilled models.

    A model without ``get_classifier`` has none that could be told from its other layers.
    """
    get_classifier = getattr(model, "get_classifier", None)
    if get_classifier is None:
        return []
    found = get_classifier()
    return list(found) if isinstance(found, tuple | list | nn.ModuleList) else [found]


def is_adaptable(model: nn.Module) -> Callable[[str, nn.Module], bool]:
    """The predicate that selects layers: every ``nn.Linear`` outside the classifier."""
    heads = {id(module) for head in classifiers(model) for module in head.modules()}
    return lambda name, module: (
        isinstance(module, nn.Linear) and module is not model and id(module) not in heads
    )


def linear_shapes(
    model: nn.Module, predicate: Callable[[str, nn.Module], bool] | None = None
) -> dict[str, LayerShape]:
    """Shapes of the layers that can be adapted, by dotted name, in the model's order.

    Args:
        model: Any module.
        predicate: Takes a name and a module; by default :func:`is_adaptable`.

    Raises:
        LayerError: If no layer is left, or the predicate takes one that is no ``nn.Linear``.

    Example:
        >>> linear_shapes(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)))
        ... # doctest: +NORMALIZE_WHITESPACE
        {'0': LayerShape(out_features=4, in_features=8, bias=True),
         '2': LayerShape(out_features=2, in_features=4, bias=False)}
    """
    take = predicate or is_adaptable(model)
    shapes = {}
    for name, module in model.named_modules():
        if take(name, module):
            if not isinstance(module, nn.Linear):
                raise LayerError(
                    f"An adapted layer must be an nn.Linear, {name!r} is {type(module).__name__}."
                )
            shapes[name] = LayerShape(
                module.out_features, module.in_features, module.bias is not None
            )
    if not shapes:
        raise LayerError(
            f"The model must have an nn.Linear besides its classifier, {type(model).__name__} "
            "has none."
        )
    return shapes


Site = tuple[nn.Module, str, nn.Module]
"""A place in a model: the parent module, the attribute's name and what stands there."""


def replace(model: nn.Module, swaps: Mapping[nn.Module, nn.Module]) -> list[Site]:
    """Put modules in the places of others, under every name that they have.

    Returns:
        What stood where, for :func:`restore`.
    """
    sites: list[Site] = []
    # remove_duplicate: a layer that stands under two names must go under both.
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in swaps:
            parent, _, leaf = name.rpartition(".")
            sites.append((model.get_submodule(parent), leaf, module))
            setattr(*sites[-1][:2], swaps[module])
    return sites


def restore(sites: Iterable[Site]) -> None:
    """Undo :func:`replace`."""
    for parent, leaf, module in sites:
        setattr(parent, leaf, module)


def attach(
    model: nn.Module,
    choices: Mapping[str, Mapping[str, Iterable[Choice]]],
    generator: torch.Generator | None = None,
) -> dict[str, GLoRALinear]:
    """Replace the named layers of ``model`` by adapted ones, in place.

    Args:
        model: Any module that is not adapted yet.
        choices: For each dotted layer name, the choices of its support tensors.
        generator: See :class:`GLoRALinear`.

    Returns:
        The adapted layers by name. The model computes what it computed before.

    Raises:
        LayerError: If a name is no ``nn.Linear`` of the model.
        ArchitectureError: If a layer cannot take one of its choices.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> layers = attach(model, {"0": {"B": [Choice.parse("lora-2")]}})
        >>> model[0] is layers["0"]
        True
        >>> type(detach(model)[0])
        <class 'torch.nn.modules.linear.Linear'>
    """
    modules = dict(model.named_modules())
    layers: dict[str, GLoRALinear] = {}
    for name, of_layer in choices.items():
        linear = modules.get(name)
        if not isinstance(linear, nn.Linear) or linear is model:
            known = [n for n, m in modules.items() if isinstance(m, nn.Linear) and n]
            raise LayerError(
                "A layer to adapt must be the dotted name of an nn.Linear inside the model, got "
                f"{name!r}; "
                f"known: {', '.join(known[:6]) or 'none'}{', ...' if len(known) > 6 else ''}."
            )
        try:
            layers[name] = GLoRALinear(linear, of_layer, generator)
        except ArchitectureError as error:
            for layer in layers.values():
                layer.release()
            raise ArchitectureError(f"{name}: {error}") from None
    replace(model, {layer.linear: layer for layer in layers.values()})
    return layers


def adapted_layers(model: nn.Module) -> dict[str, GLoRALinear]:
    """The adapted layers of a model, by dotted name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, GLoRALinear)}


def detach(model: M) -> M:
    """Put the original layers back: the same objects with the same bits. Returns ``model``."""
    replace(model, {layer: layer.release() for layer in adapted_layers(model).values()})
    return model


def activate(model: nn.Module, architecture: Architecture) -> None:
    """Make one architecture the one that the adapted layers compute.

    Raises:
        ArchitectureError: If the architecture's layers or choices are not the model's. The
            model is then unchanged.
    """
    layers = adapted_layers(model)
    if set(layers) != set(architecture):
        odd = sorted(set(layers) ^ set(architecture))
        raise ArchitectureError(
            f"The architecture must name exactly the {len(layers)} adapted layers; "
            f"{odd[0]!r} is on one side only."
        )
    before = {name: layer.active for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.activate(architecture[name])
    except ArchitectureError as error:
        for other, active in before.items():
            layers[other].active = active
        raise ArchitectureError(f"{name}: {error}") from None
