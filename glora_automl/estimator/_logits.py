"""Logits that do not depend on the size of their batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["stable_logits"]


def stable_logits(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the logits of a batch, which do not depend on its size.

    A single image goes twice: products of matrix and vector round differently from products of
    matrices.
    """
    if len(batch) > 1:
        logits: Tensor = model(batch)
        return logits.cpu().double()  # an Apple GPU has no float64
    return stable_logits(model, torch.cat([batch, batch]))[:1]
