"""Attach support tensors to the layers of any module, and take them off again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import nn

from glora_automl.adapters._layer import GLoRALinear, refusal
from glora_automl.architecture import Architecture, Choice
from glora_automl.errors import ArchitectureError, LayerError

__all__ = [
    "activate",
    "adapted_layers",
    "attach",
    "detach",
]

M = TypeVar("M", bound=nn.Module)


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
        LayerError: If a name is no linear layer of the model.
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
        reason = "the model has none of that name" if linear is None else refusal(linear)
        if linear is model:
            reason = "the model itself"
        if reason is not None:
            known = [n for n, m in modules.items() if refusal(m) is None and n]
            raise LayerError(
                "A layer to adapt must be the dotted name of a linear layer inside the model, got "
                f"{name!r} ({reason}); "
                f"known: {', '.join(known[:6]) or 'none'}{', ...' if len(known) > 6 else ''}."
            )
        assert isinstance(linear, nn.Linear | nn.Conv2d)
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
    activate_layers(adapted_layers(model), architecture)


def activate_layers(layers: Mapping[str, GLoRALinear], architecture: Architecture) -> None:
    """:func:`activate` for known layers, as large models have many modules to look through."""
    if layers.keys() != architecture.keys():
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
