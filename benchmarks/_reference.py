"""The paper's formula as its reference code computes it, written anew; and a plain LoRA layer.

For each batch the reference rebuilds the weight of each layer from five dense tensors, also where
a tensor is none (arXiv 2306.07967, equation 10). It is here to be compared with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glora_automl.adapters import GLoRALinear, adapted_layers


class ReferenceLinear(nn.Module):
    """A layer with the parameters of an adapted one, and the reference's arithmetic."""

    def __init__(self, layer: GLoRALinear) -> None:
        super().__init__()
        self.layer = layer

    def dense(self, tensor: str, rows: int, columns: int) -> Tensor:
        choice = getattr(self.layer.active, tensor)
        like = self.layer.linear.weight
        if choice.kind == "none":
            return torch.zeros(rows, columns, device=like.device, dtype=like.dtype)
        if choice.kind == "lora":
            left = getattr(self.layer, f"{tensor}_left")[:, : choice.rank]
            right = getattr(self.layer, f"{tensor}_right")[: choice.rank]
            return left @ right
        value = getattr(self.layer, f"{tensor}_{choice.kind}")
        return value.reshape(-1, 1).expand(rows, columns)

    def forward(self, x: Tensor) -> Tensor:
        linear = self.layer.linear
        out, in_ = linear.weight.shape
        a, b = self.dense("A", out, in_), self.dense("B", out, in_)
        c = self.dense("C", in_, 1)
        d, e = self.dense("D", out, 1)[:, 0], self.dense("E", out, 1)[:, 0]
        weight = linear.weight + linear.weight * a + b
        bias = e + (linear.weight @ c)[:, 0]
        if linear.bias is not None:
            bias = bias + linear.bias + linear.bias * d
        return F.linear(x, weight, bias)


class LoRALinear(nn.Module):
    """LoRA as it is usually written: two thin products beside the frozen layer."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        bound = 1 / math.sqrt(linear.in_features)
        self.down = nn.Parameter(torch.empty(rank, linear.in_features).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + F.linear(F.linear(x, self.down), self.up)


def replace(model: nn.Module, made: dict[str, nn.Module]) -> nn.Module:
    """Put modules into a model."""
    for name, module in made.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module)
    return model


def reference_of(model: nn.Module) -> nn.Module:
    """An adapted model with the reference's arithmetic, on the same parameters."""
    layers = {n: m for n, m in adapted_layers(model).items() if not m.is_convolution}
    return replace(model, {name: ReferenceLinear(layer) for name, layer in layers.items()})


def lora_of(model: nn.Module, names: list[str], rank: int) -> nn.Module:
    """A model with LoRA in the named layers."""
    return replace(model, {name: LoRALinear(model.get_submodule(name), rank) for name in names})


def peft_of(model: nn.Module, names: list[str], kind: str, rank: int) -> nn.Module | None:
    """A model with PEFT's LoRA or GLoRA in the named layers; None where PEFT is not installed."""
    try:
        import peft
    except ImportError:
        return None
    model.requires_grad_(False)
    if kind == "LoRA":
        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
    else:
        config = peft.GloraConfig(
            r=rank,
            target_modules=names,
            config_A_B="lora",
            config_C="vector",
            config_D_E="vector",
        )
    return peft.get_peft_model(model, config)
