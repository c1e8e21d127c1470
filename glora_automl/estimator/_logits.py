"""Logits that do not depend on the size of their batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["stable_logits"]

MIN_ROWS = 16
"""Images from which on all processors round alike; with AVX-512, fewer rows have other kernels."""

SMALL = 32 * 32
"""Most pixels of an image that costs hardly more in a batch of ``MIN_ROWS``."""


def stable_logits(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the logits of a batch, which do not depend on its size.

    Processors round products of few rows differently. So few small images are repeated. A single
    larger image goes twice: it has many tokens, and products of matrix and vector are the worst.
    """
    n_images, n_rows = len(batch), MIN_ROWS if batch.shape[-2:].numel() <= SMALL else 2
    if 0 < n_images < n_rows:
        batch = torch.cat([batch] * -(-n_rows // n_images))
    logits: Tensor = model(batch)[:n_images]
    return logits.cpu().double()  # an Apple GPU has no float64
