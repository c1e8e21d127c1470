"""Scoring a plain model on images that come to its device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glora_automl.adapters import evaluation_mode
from glora_automl.supernet._batches import ImageBatches, batches

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
def evaluate(
    model: nn.Module,
    images: ImageBatches,
    labels: Tensor,
    batch_size: int = 512,
    *,
    among: Tensor | None = None,
) -> Score:
    """Score a model; the modes of its modules are restored afterwards.

    Args:
        model: Gives logits ``(batch, classes)`` for images.
        images: Normalised images ``(n, channels, height, width)`` on the model's device.
        labels: Class indices ``(n,)`` on the same device.
        batch_size: Images a forward pass.
        among: Classes ``(m,)`` that the decision is among, for images of some of the classes; the
            logits of the others count for nothing. None is all of them.

    Example:
        >>> evaluate(nn.Flatten(), torch.eye(3)[:, :, None, None], torch.tensor([0, 1, 0]))
        ... # doctest: +ELLIPSIS
        Score(accuracy=0.666..., loss=0.884..., images=3)
    """
    return evaluate_each(model, images, labels, batch_size, among=among)[0]


@torch.inference_mode()
def evaluate_each(
    model: nn.Module,
    images: ImageBatches,
    labels: Tensor,
    batch_size: int = 512,
    *,
    among: Tensor | None = None,
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
    parts = [slice(start, start + batch_size) for start in range(0, len(labels), batch_size)]
    with evaluation_mode(model):
        for part, x in zip(parts, batches(images, parts), strict=True):
            y, logits = labels[part], model(x).float()
            if among is not None:
                others = torch.ones(logits.shape[1], dtype=torch.bool, device=labels.device)
                others[among] = False
                logits = logits.masked_fill(others, -torch.inf)
            right[part] = logits.argmax(1) == y
            loss += F.cross_entropy(logits, y, reduction="sum").double()
    count = len(labels)
    return Score(int(right.sum().item()) / count, loss.item() / count, count), right
