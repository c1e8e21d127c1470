"""A plain model beside an adapted one, for many merges."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from glora_automl.adapters._attach import adapted_layers
from glora_automl.adapters._layer import GLoRALinear
from glora_automl.adapters._merge import merge

__all__ = ["MergedModel"]


class MergedModel:
    """A plain model that takes the weights of one architecture after the other.

    :func:`merge` makes plain layers for one architecture. This one makes them once, and writes
    into their tensors, which stay where they are: nothing is allocated, and what was compiled or
    captured for the model stays valid. Frozen tensors are the adapted model's own.

    Args:
        model: A model with adapted layers, which is left as it is.
        dtype: Type of the plain model's weights; None is that of the adapted one. With another
            type nothing is shared.

    Attributes:
        model: The plain model, in evaluation mode.
        changing: Identities of its parameters that :meth:`write` or training changes.

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
        own = {p.dtype for p in model.parameters()} != {dtype} and dtype is not None
        with merge(model, share=True) as plain:
            tensors = [*plain.parameters(), *plain.buffers()]
            self.model = copy.deepcopy(plain, {} if own else {id(t): t for t in tensors}).eval()
        if own:
            self.model.requires_grad_(False).to(dtype)
            theirs = dict(model.named_parameters()) | dict(model.named_buffers())
            mine = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
            moving = {n for n, p in model.named_parameters() if p.requires_grad}
            moving |= {n for n, _ in model.named_buffers()}
            self._copied = [(mine[n], theirs[n]) for n in theirs if n in moving and n in mine]
        self.changing = {id(p) for p in self.model.parameters() if p.requires_grad}
        self.changing |= {id(mine) for mine, _ in self._copied}
        for name, layer in adapted_layers(model).items():
            plain = self.model.get_submodule(name)
            self._give_tensors(plain, layer, dtype)
            self.changing |= {id(p) for p in plain.parameters()}
        largest = max(weight.numel() for _, weight, _ in self._layers)
        self._scratch = layer.linear.weight.new_empty(largest) if own else None

    def _give_tensors(
        self, plain: nn.Module, layer: GLoRALinear, dtype: torch.dtype | None
    ) -> None:
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
        """Write the weights of the active architecture; returns the plain model."""
        for layer, weight, bias in self._layers:
            if self._scratch is None:
                layer.write_effective(weight, bias)
            else:
                scratch = self._scratch[: weight.numel()].view(weight.shape)
                layer.write_effective(scratch, bias)
                weight.copy_(scratch)
        for mine, theirs in self._copied:
            mine.copy_(theirs)
        return self.model
