"""Reference layers for comparisons: the paper's formula, plain LoRA and PEFT.

Like the paper's code, the reference rebuilds the weight of each layer for each batch. It builds it
from five dense tensors, even for a choice of none (arXiv 2306.07967, equation 10).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glora_automl.adapters import GLoRALinear, adapted_layers


class ReferenceLinear(nn.Module):
    """A layer with the parameters of an adapted layer and the arithmetic of the paper's code."""

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
    """Plain LoRA: two thin products beside the frozen layer."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        bound = 1 / math.sqrt(linear.in_features)
        self.down = nn.Parameter(torch.empty(rank, linear.in_features).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + F.linear(F.linear(x, self.down), self.up)


def replace(model: nn.Module, modules: dict[str, nn.Module]) -> nn.Module:
    """Replace modules of a model by name, and return the model."""
    for name, module in modules.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module)
    return model


def reference_of(model: nn.Module) -> nn.Module:
    """Replace the adapted layers of a model by reference layers on the same parameters."""
    layers = {n: m for n, m in adapted_layers(model).items() if not m.is_convolution}
    return replace(model, {name: ReferenceLinear(layer) for name, layer in layers.items()})


def lora_of(model: nn.Module, names: list[str], rank: int) -> nn.Module:
    """Add plain LoRA to the named layers."""
    return replace(model, {name: LoRALinear(model.get_submodule(name), rank) for name in names})


def peft_of(model: nn.Module, names: list[str], kind: str, rank: int) -> nn.Module | None:
    """Add PEFT's LoRA or GLoRA to the named layers; return None if PEFT is not installed."""
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
