"""Merge the active choices into plain layers, and undo it bit for bit."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import nn

from glora_automl.adapters._attach import Site, adapted_layers, replace, restore
from glora_automl.adapters._layer import GLoRALinear

__all__ = ["MergeHandle", "merge"]


def _plain(layer: GLoRALinear, share: bool) -> nn.Linear | nn.Conv2d:
    weight, bias = layer.effective()
    size = (layer.in_features, layer.out_features)
    # On the meta device, as the parameters are replaced below.
    plain: nn.Linear | nn.Conv2d
    if layer.is_convolution:
        plain = nn.Conv2d(*size, 1, bias=bias is not None, device="meta")
        weight = weight[:, :, None, None]
    else:
        plain = nn.Linear(*size, bias=bias is not None, device="meta")
    if not share:
        # An unchanged tensor is the frozen one; a bias may be an adapter's parameter.
        weight, bias = weight.clone(), None if bias is None else bias.clone()
    plain.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().contiguous(), requires_grad=False)
    return plain.train(layer.training)


class MergeHandle:
    """Handle that undoes a merge, by :meth:`undo` or at the end of a ``with`` block."""

    def __init__(self, model: nn.Module, sites: list[Site]) -> None:
        self._model = model
        self._sites = sites

    def undo(self) -> None:
        """Restore the adapted layers. A second call does nothing."""
        restore(self._sites)
        self._sites = []

    def __enter__(self) -> nn.Module:
        return self._model

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()


@torch.no_grad()
def merge(model: nn.Module, *, share: bool = False) -> MergeHandle:
    """Replace the adapted layers by ``nn.Linear`` and ``nn.Conv2d`` with their effective weights.

    The merged model has the layers and the speed of the backbone. It has its parameter names, too,
    but for the bias that ``C`` and ``E`` add to a layer without one. The frozen weights are never
    written to, so the undo is exact.

    Args:
        model: A model with adapted layers.
        share: Whether unchanged layers use the frozen tensors instead of copies. That is safe for
            a merged model that is only read.

    Returns:
        A handle that undoes the merge.

    Example:
        >>> from glora_automl.adapters import attach, activate
        >>> from glora_automl.architecture import Architecture, Choice
        >>> model = nn.Sequential(nn.Linear(8, 4))
        >>> _ = attach(model, {"0": {"E": [Choice.parse("vector")]}})
        >>> activate(model, Architecture.parse("0: E=vector"))
        >>> with merge(model) as plain:
        ...     print(type(plain[0]).__name__)
        Linear
        >>> type(model[0]).__name__
        'GLoRALinear'
    """
    layers = adapted_layers(model).values()
    return MergeHandle(model, replace(model, {layer: _plain(layer, share) for layer in layers}))
