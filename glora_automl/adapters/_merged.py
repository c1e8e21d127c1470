"""A plain model for many merges of one adapted model."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from glora_automl.adapters._attach import adapted_layers
from glora_automl.adapters._layer import GLoRALinear
from glora_automl.adapters._merge import merge

__all__ = ["MergedModel"]


class MergedModel:
    """A plain model that takes the weights of one architecture after another.

    :func:`merge` creates plain layers for one architecture. This class creates them once and
    rewrites their tensors in place, so a compiled model or captured graph stays valid. The plain
    model shares the other tensors of the adapted model.

    Args:
        model: A model with adapted layers; it stays unchanged.
        dtype: Type of the plain model's weights; None takes the adapted model's. With another type
            the models share no tensors.

    Attributes:
        model: The plain model, in evaluation mode.
        changing: Identities of the plain model's parameters that :meth:`write` or training changes.

    Example:
        >>> from glora_automl.adapters import activate, attach
        >>> from glora_automl.architecture import Architecture, Choice
        >>> model = nn.Sequential(nn.Linear(8, 4))
        >>> layers = attach(model, {"0": {"E": [Choice.parse("vector")]}})
        >>> merged = MergedModel(model)
        >>> activate(model, Architecture.parse("0: E=vector"))
        >>> with torch.no_grad():
        ...     _ = layers["0"].E_vector.fill_(1.0)
        >>> x = torch.randn(2, 8)
        >>> torch.equal(merged.write()(x), model(x))
        True
        >>> type(merged.model[0]).__name__
        'Linear'
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None = None) -> None:
        self._layers: list[tuple[GLoRALinear, Tensor, Tensor | None]] = []
        self._copied: list[tuple[Tensor, Tensor]] = []
        copies = {p.dtype for p in model.parameters()} != {dtype} and dtype is not None
        with merge(model, share=True) as plain:
            tensors = [*plain.parameters(), *plain.buffers()]
            self.model = copy.deepcopy(plain, {} if copies else {id(t): t for t in tensors}).eval()
        if copies:
            self.model.requires_grad_(False).to(dtype)
            sources = dict(model.named_parameters()) | dict(model.named_buffers())
            targets = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
            trained = {n for n, p in model.named_parameters() if p.requires_grad}
            trained |= {n for n, _ in model.named_buffers()}
            self._copied = [
                (targets[n], source)
                for n, source in sources.items()
                if n in trained and n in targets
            ]
        self.changing = {id(p) for p in self.model.parameters() if p.requires_grad}
        self.changing |= {id(target) for target, _ in self._copied}
        for name, layer in adapted_layers(model).items():
            plain = self.model.get_submodule(name)
            self._allocate(plain, layer, dtype)
            self.changing |= {id(p) for p in plain.parameters()}
        largest = max(weight.numel() for _, weight, _ in self._layers)
        self._scratch = layer.linear.weight.new_empty(largest) if copies else None

    def _allocate(self, plain: nn.Module, layer: GLoRALinear, dtype: torch.dtype | None) -> None:
        frozen = layer.linear.weight.detach()
        weight = torch.empty_like(frozen, dtype=dtype)
        plain.weight = nn.Parameter(weight, requires_grad=False)
        bias = None
        if layer.linear.bias is not None or any(len(layer.choices[t]) > 1 for t in "CE"):
            bias = weight.new_zeros(layer.out_features)
            plain.bias = nn.Parameter(bias, requires_grad=False)
        self._layers.append((layer, weight.flatten(1), bias))

    @torch.no_grad()
    def write(self) -> nn.Module:
        """Write the weights of the active architecture and return the plain model."""
        for layer, weight, bias in self._layers:
            if self._scratch is None:
                layer.write_effective(weight, bias)
            else:
                scratch = self._scratch[: weight.numel()].view(weight.shape)
                layer.write_effective(scratch, bias)
                weight.copy_(scratch)
        self.copy_others()
        return self.model

    @torch.no_grad()
    def copy_others(self) -> None:
        """Copy trained tensors outside of the adapted layers, such as those of the head."""
        for target, source in self._copied:
            target.copy_(source)
