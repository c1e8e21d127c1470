"""Scoring a plain model on images that sit on its device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glora_automl.adapters import evaluation_mode

__all__ = ["Score", "evaluate", "evaluate_each"]


class Score(NamedTuple):
    """What a model reached on a set of images.

    Attributes:
        accuracy: Share of images whose most likely class is right, in 0 to 1.
        loss: Mean cross-entropy in nats.
        images: Number of images.
    """

    accuracy: float
    loss: float
    images: int


@torch.inference_mode()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 512) -> Score:
    """Score a model; the modes of its modules are restored afterwards.

    Args:
        model: Gives logits ``(batch, classes)`` for images.
        images: Normalised images ``(n, channels, height, width)`` on the model's device.
        labels: Class indices ``(n,)`` on the same device.
        batch_size: Images a forward pass.

    Example:
        >>> evaluate(nn.Flatten(), torch.eye(3)[:, :, None, None], torch.tensor([0, 1, 0]))
        ... # doctest: +ELLIPSIS
        Score(accuracy=0.666..., loss=0.884..., images=3)
    """
    return evaluate_each(model, images, labels, batch_size)[0]


@torch.inference_mode()
def evaluate_each(
    model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 512
) -> tuple[Score, Tensor]:
    """Like :func:`evaluate`, and for each image whether it was right.

    Example:
        >>> _, right = evaluate_each(nn.Flatten(), torch.eye(2)[:, :, None, None],
        ...                          torch.tensor([0, 0]))
        >>> right.tolist()
        [True, False]
    """
    # Sums stay on the device: the host waits once, at the end.
    right = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    with evaluation_mode(model):
        for start in range(0, len(labels), batch_size):
            x, y = images[start : start + batch_size], labels[start : start + batch_size]
            logits = model(x).float()
            right[start : start + batch_size] = logits.argmax(1) == y
            loss += F.cross_entropy(logits, y, reduction="sum").double()
    count = len(labels)
    return Score(int(right.sum().item()) / count, loss.item() / count, count), right
