"""Comparison of an export's logits with those of the study's subnet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from glora_automl.errors import ExportError

__all__ = ["TOLERANCE", "Logits", "Verification", "batched", "verify"]

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit: about a hundred times the rounding
error of float32 sums in another order."""

BATCH_SIZE = 32

Logits = Callable[[Tensor], Tensor]
"""Images ``(batch, channels, height, width)`` to logits ``(batch, classes)``."""


class Verification(NamedTuple):
    """Result of the comparison of an export with the study's subnet.

    Attributes:
        n_images: Validation images.
        difference: Largest absolute difference of a logit.
        tolerance: Largest allowed difference.
        n_same_predictions: Images with the subnet's prediction. The two most likely classes of
            other images are closer than twice the tolerance.
    """

    n_images: int
    difference: float
    tolerance: float
    n_same_predictions: int


@torch.inference_mode()
def batched(logits: Logits, images: Tensor) -> Tensor:
    """Return the logits of images: of the first one, then of batches of the others."""
    return torch.cat(
        [logits(part).float() for part in (images[:1], *torch.split(images[1:], BATCH_SIZE))]
    )


def verify(forms: Mapping[str, Logits], expected: Tensor, images: Tensor) -> Verification:
    """Compare an export, in each form of its use, with the study's subnet.

    Args:
        forms: Logits of the export, by the name of the form.
        expected: Logits of the subnet ``(n, classes)``.
        images: Their images ``(n, channels, height, width)``.

    Raises:
        ExportError: If logits differ by more than the tolerance.

    Example:
        >>> images = torch.eye(3)[:, :, None, None]
        >>> verify({"same": lambda x: x.flatten(1)}, images.flatten(1), images).difference
        0.0
        >>> verify({"other": lambda x: -x.flatten(1)}, images.flatten(1), images)
        Traceback (most recent call last):
        glora_automl.errors.ExportError: Logits of the other must differ by at most 0.0001 from ...
    """
    tolerance = TOLERANCE * float(expected.abs().max())
    difference, same = 0.0, torch.ones(len(images), dtype=torch.bool)
    for name, logits in forms.items():
        found = batched(logits, images)
        apart = float((found - expected).abs().max()) if found.shape == expected.shape else None
        if apart is None or not apart <= tolerance:
            raise ExportError(
                f"Logits of the {name} must differ by at most {tolerance:.2g} from those of the "
                f"study's subnet, got {'another shape' if apart is None else f'{apart:.2g}'}. "
                "Report this bug; nothing was written."
            )
        difference = max(difference, apart)
        same &= found.argmax(1) == expected.argmax(1)
    return Verification(len(images), difference, tolerance, int(same.sum()))
