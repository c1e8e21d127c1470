"""Data types of forward passes: float32, or a 16-bit type under autocast."""

from __future__ import annotations

from typing import Literal

import torch

__all__ = ["Precision", "half_dtype", "resolve_precision"]

Precision = Literal["fp32", "bf16", "fp16"]
"""Data type of the products of a forward pass."""

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """Return a precision as it is, or what ``auto`` is on a device.

    ``auto`` is bfloat16 on accelerators that compute in it, and float16 on older NVIDIA GPUs such
    as the T4. A CPU and Apple's GPUs take float32.

    Example:
        >>> resolve_precision("auto", torch.device("cpu"))
        'fp32'
        >>> resolve_precision("bf16", torch.device("cpu"))
        'bf16'
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        with torch.cuda.device(device):
            # An emulated bfloat16 is slower than float32.
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp16"
    return "bf16" if device.type == "xpu" else "fp32"


def half_dtype(precision: Precision) -> torch.dtype | None:
    """Return the 16-bit type of a precision; None for float32.

    Example:
        >>> half_dtype("fp16"), half_dtype("fp32")
        (torch.float16, None)
    """
    return _HALF.get(precision)
