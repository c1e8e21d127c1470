"""An export is handed over when it computes what the study's subnet does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from glora_automl.errors import ExportError

__all__ = ["TOLERANCE", "Logits", "Verified", "batched", "verify"]

TOLERANCE = 1e-4
"""Largest difference of a logit, as a share of the largest logit: float32 added up in another order
differs by about a hundredth of it."""

BATCH = 32

Logits = Callable[[Tensor], Tensor]
"""Images ``(batch, channels, height, width)`` to logits ``(batch, classes)``."""


class Verified(NamedTuple):
    """How an export was verified.

    Attributes:
        images: Validation images that it was shown.
        difference: Largest difference of a logit from the subnet's.
        largest: Largest absolute logit of the subnet.
        tolerance: Largest difference that was allowed.
        predictions: Images whose most likely class is the subnet's. Others are ties: two classes
            are closer than twice the tolerance.
    """

    n_images: int
    difference: float
    largest: float
    tolerance: float
    predictions: int


@torch.inference_mode()
def batched(logits: Logits, images: Tensor) -> Tensor:
    """Logits of many images: the first alone, the others in batches."""
    return torch.cat(
        [logits(part).float() for part in (images[:1], *torch.split(images[1:], BATCH))]
    )


def verify(forms: Mapping[str, Logits], expected: Tensor, images: Tensor) -> Verified:
    """Compare an export, in each form that it is used in, with the study's subnet.

    Args:
        forms: What computes logits, by what it is called in messages.
        expected: Logits of the subnet ``(n, classes)``.
        images: Images ``(n, channels, height, width)`` that they are of.

    Raises:
        ExportError: If logits differ by more than the tolerance.

    Example:
        >>> images = torch.eye(3)[:, :, None, None]
        >>> verify({"same": lambda x: x.flatten(1)}, images.flatten(1), images).difference
        0.0
        >>> verify({"other": lambda x: -x.flatten(1)}, images.flatten(1), images)
        Traceback (most recent call last):
        glora_automl.errors.ExportError: The export must compute ... other differ by 2, ...
    """
    largest = float(expected.abs().max())
    tolerance = TOLERANCE * largest
    difference, same = 0.0, torch.ones(len(images), dtype=torch.bool)
    for name, logits in forms.items():
        found = batched(logits, images)
        apart = float((found - expected).abs().max()) if found.shape == expected.shape else None
        if apart is None or not apart <= tolerance:
            raise ExportError(
                "The export must compute what the subnet of the study does, and logits of the "
                f"{name} differ by {'their shape' if apart is None else f'{apart:.2g}'}, of at "
                f"most {largest:.3g}; nothing was written. Please report it."
            )
        difference = max(difference, apart)
        same &= found.argmax(1) == expected.argmax(1)
    return Verified(len(images), difference, largest, tolerance, int(same.sum()))
