"""A plain model that computes several architectures in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glora_automl.adapters import GLoRALinear, MergedModel
from glora_automl.architecture import Architecture
from glora_automl.supernet._supernet import Supernet

__all__ = ["StackedModel"]


class StackedLinear(nn.Module):
    """Linear layers of several architectures, each for its part of the batch.

    Args:
        weight: ``(n, out, in)``.
        bias: ``(n, out)``; None without one.
        is_convolution: Whether the layers are 1 x 1 convolutions.

    Shape:
        ``(n * batch, *, in)`` to ``(n * batch, *, out)``, of a convolution
        ``(n * batch, in, height, width)`` to ``(n * batch, out, height, width)``.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, is_convolution: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.is_convolution = is_convolution

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        n, out_features, in_features = weight.shape
        if self.is_convolution:
            pixels = x.reshape(n, -1, in_features, x.shape[2] * x.shape[3])
            y = weight[:, None] @ pixels
            if bias is not None:
                y = y + bias[:, None, :, None]
            return y.reshape(len(x), out_features, *x.shape[2:])
        flat = x.reshape(n, -1, in_features)
        if bias is None:
            y = flat @ weight.transpose(1, 2)
        else:
            y = torch.baddbmm(bias[:, None], flat, weight.transpose(1, 2))
        return y.reshape(*x.shape[:-1], out_features)


class StackedModel(nn.Module):
    """A plain model of several architectures, with one weight of each adapted layer for each.

    All other modules see one large batch. So the model has as few kernels as one architecture,
    each with more work, which keeps a GPU busy where one architecture does not.

    Args:
        supernet: The supernet.
        n: Number of architectures.
        dtype: Type of the weights; None takes the supernet's.
    """

    def __init__(self, supernet: Supernet, n: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self._supernet = supernet
        self._merged = MergedModel(supernet.model, dtype)
        self._n = n
        self.model = self._merged.model
        self._layers: list[tuple[GLoRALinear, StackedLinear]] = []
        for name, layer in supernet.layers.items():
            plain = self.model.get_submodule(name)
            assert isinstance(plain, nn.Linear | nn.Conv2d)
            weight = plain.weight.new_zeros(n, layer.out_features, layer.in_features)
            bias = None if plain.bias is None else weight.new_zeros(n, layer.out_features)
            stacked = StackedLinear(weight, bias, layer.is_convolution)
            parent, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(parent), leaf, stacked)
            self._layers.append((layer, stacked))

    @property
    def changing(self) -> set[int]:
        """Identities of the tensors that change between passes."""
        return self._merged.changing

    @torch.no_grad()
    def write(self, architectures: Sequence[Architecture]) -> None:
        """Write the weights of ``n`` architectures; the last one becomes the active one."""
        for k, architecture in enumerate(architectures):
            self._supernet.activate(architecture)
            for layer, stacked in self._layers:
                weight, bias = layer.effective()
                stacked.weight[k].copy_(weight)
                if stacked.bias is not None:
                    if bias is None:
                        stacked.bias[k].zero_()
                    else:
                        stacked.bias[k].copy_(bias)
        self._merged.copy_others()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch for each architecture, ``(batch, n, classes)``."""
        logits: Tensor = self.model(x.repeat(self._n, *[1] * (x.ndim - 1)))
        return logits.view(self._n, len(x), *logits.shape[1:]).transpose(0, 1)
