"""Slow and readable reference of GLoRA's formula.

It builds every support tensor densely from the layer's parameters, entry by entry or rank by rank,
and adds them as in the paper:

    W = W0 + W0 * A + B            b = b0 + b0 * D + E + W0 C

A 1 x 1 convolution is the linear layer of its weight without the last two dimensions. The reference
reads parameters and active choices and calls no code of the package.
"""

import torch
from torch import Tensor, nn


def low_rank(left: Tensor, right: Tensor, rank: int) -> Tensor:
    """Return the sum of the first ``rank`` outer products."""
    total = torch.zeros(left.shape[0], right.shape[1], dtype=left.dtype, device=left.device)
    for k in range(rank):
        total = total + left[:, k].reshape(-1, 1) * right[k, :].reshape(1, -1)
    return total


def dense(layer: nn.Module, tensor: str, rows: int, columns: int) -> Tensor:
    """Return a support tensor as a full matrix of ``rows`` x ``columns``."""
    choice = getattr(layer.active, tensor)
    like = layer.linear.weight
    if choice.kind == "none":
        return torch.zeros(rows, columns, dtype=like.dtype, device=like.device)
    if choice.kind == "scalar":
        value = layer.get_parameter(f"{tensor}_scalar")
        return torch.stack([value] * (rows * columns)).reshape(rows, columns)
    if choice.kind == "vector":
        vector = layer.get_parameter(f"{tensor}_vector")
        return torch.stack([vector] * columns, dim=1)
    left, right = layer.get_parameter(f"{tensor}_left"), layer.get_parameter(f"{tensor}_right")
    return low_rank(left, right, choice.rank)


def weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the effective weight and bias; a layer without bias has b0 = 0."""
    W0 = layer.linear.weight
    W0 = W0.reshape(W0.shape[0], W0.shape[1])
    out, in_ = W0.shape
    b0 = layer.linear.bias
    if b0 is None:
        b0 = torch.zeros(out, dtype=W0.dtype, device=W0.device)

    A = dense(layer, "A", out, in_)
    B = dense(layer, "B", out, in_)
    C = dense(layer, "C", in_, 1)[:, 0]
    D = dense(layer, "D", out, 1)[:, 0]
    E = dense(layer, "E", out, 1)[:, 0]

    W0_C = torch.stack([(W0[i] * C).sum() for i in range(out)])
    return W0 + W0 * A + B, b0 + b0 * D + E + W0_C


def forward(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the layer's output for ``x (..., in)``."""
    W, b = weight_and_bias(layer)
    return (x[..., None, :] * W).sum(-1) + b


def count(layer: nn.Module) -> int:
    """Return the trainable parameters of the active choices, from the paper's table."""
    out, in_ = layer.linear.weight.shape[:2]
    total = 0
    for tensor in "ABCDE":
        choice = getattr(layer.active, tensor)
        if choice.kind == "scalar":
            total += 1
        elif choice.kind == "vector":
            total += in_ if tensor == "C" else out
        elif choice.kind == "lora":
            total += choice.rank * ((in_ + 1) if tensor == "C" else (in_ + out))
    return total
