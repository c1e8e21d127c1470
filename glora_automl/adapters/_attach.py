"""Attach support tensors to the layers of any module, activate them, detach them."""

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
"""A place in a model: parent module, attribute name and current module."""


def replace(model: nn.Module, swaps: Mapping[nn.Module, nn.Module]) -> list[Site]:
    """Replace modules by others under all of their names.

    Returns:
        The replaced modules and their places, for :func:`restore`.
    """
    sites: list[Site] = []
    # remove_duplicate=False: a layer with two names is replaced under both.
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
        model: A module without adapted layers.
        choices: The choices of each layer's support tensors, by dotted layer name.
        generator: As for :class:`GLoRALinear`.

    Returns:
        The adapted layers by name. The model's outputs stay the same.

    Raises:
        LayerError: If a name is not a linear layer of the model.
        ArchitectureError: If a layer cannot have one of its choices.

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
    for name, layer_choices in choices.items():
        linear = modules.get(name)
        reason = "no such layer" if linear is None else refusal(linear)
        if linear is model:
            reason = "the model itself"
        if reason is not None:
            known = [n for n, m in modules.items() if refusal(m) is None and n]
            shown = ", ".join(known[:4]) + (", ..." if len(known) > 4 else "")
            raise LayerError(
                f"An adapted layer must be a linear layer of the model, got {name!r} ({reason}). "
                f"Choose from {shown or 'another model'}."
            )
        assert isinstance(linear, nn.Linear | nn.Conv2d)
        try:
            layers[name] = GLoRALinear(linear, layer_choices, generator)
        except ArchitectureError as error:
            for layer in layers.values():
                layer.release()
            raise ArchitectureError(f"{name}: {error}") from None
    replace(model, {layer.linear: layer for layer in layers.values()})
    return layers


def adapted_layers(model: nn.Module) -> dict[str, GLoRALinear]:
    """Return the adapted layers of a model by dotted name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, GLoRALinear)}


def detach(model: M) -> M:
    """Restore the original layers, the same objects with the same bits, and return ``model``."""
    replace(model, {layer: layer.release() for layer in adapted_layers(model).values()})
    return model


def activate(model: nn.Module, architecture: Architecture) -> None:
    """Activate one architecture in the adapted layers.

    Raises:
        ArchitectureError: If the architecture has other layers or choices than the model. The
            model then stays unchanged.
    """
    activate_layers(adapted_layers(model), architecture)


def activate_layers(layers: Mapping[str, GLoRALinear], architecture: Architecture) -> None:
    """Activate an architecture in known layers, without a walk over all modules."""
    if layers.keys() != architecture.keys():
        different = sorted(set(layers) ^ set(architecture))[0]
        problem = "without" if different in layers else "with"
        raise ArchitectureError(
            f"The architecture must have exactly the {len(layers)} adapted layers, got one "
            f"{problem} {different!r}."
        )
    before = {name: layer.active for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.activate(architecture[name])
    except ArchitectureError as error:
        for other, active in before.items():
            layers[other].active = active
        raise ArchitectureError(f"{name}: {error}") from None
