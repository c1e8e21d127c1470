"""The arithmetic of one adapted linear layer, with gradients at the cost of LoRA."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["Factors", "adapted_linear", "without_autocast"]

Factors = tuple[Tensor, Tensor]
"""The two factors of a product: ``(out, r)`` and ``(r, in)``."""


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a block without autocast on a tensor's device.

    Effective weights and biases are sums of a frozen value and a small change, which a 16-bit type
    would round away.
    """
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else _NOTHING


_NOTHING: AbstractContextManager[object] = nullcontext()


def adapted_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    scale: Tensor | None = None,
    scaling: Factors | None = None,
    added: Factors | None = None,
) -> Tensor:
    """Compute ``x W^T + b`` with ``W = W0 + W0 * A + B`` and no gradient for the frozen ``W0``.

    Autograd computes a gradient through ``W`` by a product as large as the layer, ``dW = g^T x``.
    Only ``A`` as a product of factors needs it. Otherwise the gradients of factors are products as
    thin as the rank, and the gradient of ``scale`` uses the output of the frozen layer. The
    backward pass keeps the input, the factors and, for ``scale``, that output.

    ``W`` is built where that touches fewer numbers than the factors' products with inputs and
    outputs, as in a large batch. Under autocast the large products have its type, and ``W`` is
    built in the type of the weights.

    Args:
        x: Inputs ``(*, in)``.
        weight: ``W0 (out, in)``, without gradient.
        bias: The effective bias ``(out,)``.
        scale: ``A`` as a vector ``(out,)``, which scales the outputs.
        scaling: ``A`` as a product of factors; it excludes ``scale``.
        added: ``B`` as a product of factors.

    Returns:
        ``(*, out)``.

    Example:
        >>> x, weight = torch.randn(2, 3), torch.randn(4, 3)
        >>> left, right = torch.randn(4, 1), torch.randn(1, 3)
        >>> y = adapted_linear(x, weight, None, scale=torch.ones(4), added=(left, right))
        >>> torch.allclose(y, x @ (2 * weight + left @ right).T, atol=1e-5)
        True
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    with without_autocast(x):
        if scale is None and scaling is None and added is None:
            return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        a = (scale, None) if scaling is None else scaling
        # Reshaped outside the function: a view that it returns cannot be changed in place.
        flat = x.reshape(-1, x.shape[-1])
        output: Tensor = _AdaptedLinear.apply(flat, weight, bias, *a, *(added or (None, None)))
        return output.view(*x.shape[:-1], len(weight))


class _AdaptedLinear(torch.autograd.Function):
    """The function behind :func:`adapted_linear`; ``g`` is the gradient of the output ``y``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a_left: Tensor | None,
        a_right: Tensor | None,
        left: Tensor | None,
        right: Tensor | None,
    ) -> Tensor:
        ctx.has_bias = bias is not None
        bias = None if bias is None else bias.to(x.dtype)
        scales = a_left is not None and a_right is None
        ctx.dense = a_right is not None
        # Building reads and writes W. Factors read and write the outputs, and in the backward pass
        # the inputs.
        ctx.builds = ctx.dense or len(x) * sum(weight.shape) > 2 * weight.numel()
        plain = projected = None
        if right is not None and not ctx.dense:
            projected = x @ right.to(x.dtype).t()
        if scales:
            assert a_left is not None
            plain = x @ weight.to(x.dtype).t()
            factor = (1 + a_left).to(x.dtype)
            y = plain * factor if bias is None else torch.addcmul(bias, plain, factor)
        elif ctx.builds:
            y = F.linear(x, _built(weight, a_left, a_right, left, right).to(x.dtype), bias)
        else:
            y = F.linear(x, weight.to(x.dtype), bias)
        if left is not None and projected is not None and (scales or not ctx.builds):
            y.addmm_(projected, left.to(x.dtype).t())
        needs_x = ctx.dense or ctx.needs_input_grad[6]
        saved = (weight, a_left, a_right, left, right, projected, plain)
        ctx.save_for_backward(x if needs_x else None, *saved)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a_left, a_right, left, right, projected, plain = ctx.saved_tensors
        grads: dict[str, Tensor] = {}
        if ctx.has_bias:
            grads["bias"] = g.sum(0)
        with without_autocast(g):
            if ctx.dense:
                grads |= _grads_through_weight(g, x, weight, a_left, a_right, left, right)
            else:
                if plain is not None:
                    grads["a_left"] = torch.linalg.vecdot(g, plain, dim=0)
                if left is not None:
                    # This layout of tall and thin operands is up to ten times as fast on CPUs.
                    grads["left"] = (projected.t() @ g).t()
                    thin = g @ left.to(g.dtype).t().contiguous().t()
                    if x is not None:
                        grads["right"] = thin.t() @ x
            if ctx.needs_input_grad[0]:
                if ctx.builds:
                    built = _built(weight, a_left, a_right, left, right)
                    grad_x = g @ built.to(g.dtype)
                else:
                    scaled = g if a_left is None else g * (1 + a_left).to(g.dtype)
                    grad_x = scaled @ weight.to(g.dtype)
                    if left is not None:
                        grad_x.addmm_(thin, right.to(g.dtype))
                grads["x"] = grad_x
        order = ("x", "weight", "bias", "a_left", "a_right", "left", "right")
        return tuple(grads.get(name) for name in order)


def _built(
    weight: Tensor,
    a_left: Tensor | None,
    a_right: Tensor | None,
    left: Tensor | None,
    right: Tensor | None,
) -> Tensor:
    """Return the effective weight ``(out, in)``."""
    built = weight
    if a_left is not None:
        a = a_left[:, None] if a_right is None else a_left @ a_right
        built = torch.addcmul(weight, weight, a)
    if left is not None and right is not None:
        built = torch.addmm(built, left, right)
    return built


def _grads_through_weight(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    a_left: Tensor,
    a_right: Tensor,
    left: Tensor | None,
    right: Tensor | None,
) -> dict[str, Tensor]:
    """Return the gradients of all factors from the gradient of the effective weight."""
    grad_weight = (g.t() @ x).to(weight.dtype)
    grad_a = grad_weight * weight
    grads = {"a_left": grad_a @ a_right.t(), "a_right": a_left.t() @ grad_a}
    if left is not None and right is not None:
        grads |= {"left": grad_weight @ right.t(), "right": left.t() @ grad_weight}
    return grads
