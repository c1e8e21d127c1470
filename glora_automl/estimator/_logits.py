"""Logits that depend on the size of their batch as little as possible."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["stable_logits"]


def stable_logits(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the logits of a batch, which depend on its size by float32's rounding at most.

    A single image goes twice: products of matrix and vector round differently from products of
    matrices. Some processors also round products of few rows differently, by about 1e-7.
    """
    if len(batch) > 1:
        logits: Tensor = model(batch)
        return logits.cpu().double()  # an Apple GPU has no float64
    return stable_logits(model, torch.cat([batch, batch]))[:1]
