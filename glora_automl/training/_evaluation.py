"""Scoring a plain model on images that come to its device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional as F

from glora_automl.adapters import evaluation_mode
from glora_automl.training._batches import ImageBatches, batches
from glora_automl.training._memory import Pieces

__all__ = [
    "Score",
    "evaluate",
    "logits_of",
    "paying_batch_size",
    "temperature_scaled_loss",
]

CUDA_BATCH = 512
"""Images a forward pass on a GPU: enough for any to be busy."""

CACHED = 2**20
"""Numbers in the widest activation of a batch on a CPU. With more of them (4 MB in float32) layers
read their inputs from memory instead of a cache."""

FEWEST = 8
"""Images a forward pass on a CPU, however wide: with fewer, weights are read too often."""


class Score(NamedTuple):
    """What a model reached on a set of images.

    Attributes:
        accuracy: Share of images whose most likely class is right, in 0 to 1.
        loss: Mean cross-entropy in nats.
        n_images: Number of images.
        scaled_loss: :func:`temperature_scaled_loss` on them; None where it was not asked for.
    """

    accuracy: float
    loss: float
    n_images: int
    scaled_loss: float | None = None


def temperature_scaled_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy at the temperature that makes it smallest, in nats.

    Adapters that are trained for long are overconfident on other images, each in its own measure,
    so their losses say little of which is better. Divided by a temperature, which changes no
    decision (Guo et al., On calibration of modern neural networks, 2017), they do; and they tell
    adapters apart that are right on equally many images.

    Args:
        logits: ``(n, classes)``.
        labels: Class indices ``(n,)``.

    Example:
        >>> logits, labels = torch.eye(3), torch.tensor([0, 1, 0])
        >>> F.cross_entropy(logits, labels).item(), temperature_scaled_loss(logits, labels)
        ... # doctest: +ELLIPSIS
        (0.884..., 0.867...)
        >>> temperature_scaled_loss(9 * logits, labels)  # doctest: +ELLIPSIS
        0.867...
    """
    logits = logits.double()

    def loss(exponent: float) -> float:
        return F.cross_entropy(logits * math.exp(exponent), labels).item()

    # Convex in the inverse temperature, so there is one minimum in its logarithm, too.
    found = minimize_scalar(loss, bounds=(-_WIDEST, _WIDEST), method="bounded")
    return min(float(found.fun), loss(0.0))


_WIDEST = math.log(1000)
"""Temperatures are from a thousandth to a thousand."""


@torch.inference_mode()
def paying_batch_size(model: nn.Module, image: Tensor) -> int:
    """The batch size beyond which larger ones do not pay.

    On a CPU it is the number of images whose widest activation stays in the cache, which one
    forward pass tells; it depends on the model alone, so that the same seed gives the same
    figures.

    Args:
        model: In evaluation mode.
        image: One image ``(1, channels, height, width)``.

    Example:
        >>> paying_batch_size(nn.Conv2d(3, 64, 1), torch.zeros(1, 3, 128, 128))
        8
    """
    if image.device.type != "cpu":
        return CUDA_BATCH
    widest = image.numel()

    def note(module: nn.Module, args: object, output: object) -> None:
        nonlocal widest
        if isinstance(output, Tensor):
            widest = max(widest, output.numel())

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return min(CUDA_BATCH, max(FEWEST, CACHED // widest))


def logits_of(
    model: nn.Module, images: ImageBatches, parts: Iterable[slice]
) -> Iterator[tuple[slice, Tensor]]:
    """The logits of some parts of the images, in float32.

    Where memory does not hold a part, the model gets it in pieces.

    Args:
        model: In evaluation mode; gives logits ``(batch, classes)``.
        images: Normalised images ``(n, channels, height, width)`` on the model's device.
        parts: What goes through the model together.
    """
    parts = list(parts)
    pieces = Pieces("evaluation")
    for part, x in zip(parts, batches(images, parts), strict=True):
        yield part, pieces.run(len(x), partial(_forward, model, x))


def _forward(model: nn.Module, x: Tensor, most: int) -> Tensor:
    if most >= len(x):
        return model(x).float()  # type: ignore[no-any-return]
    pieces = (x[start : start + most] for start in range(0, len(x), most))
    return torch.cat([model(piece).float() for piece in pieces])


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: ImageBatches,
    labels: Tensor,
    batch_size: int | None = None,
    *,
    among: Tensor | None = None,
    scale_temperature: bool = False,
) -> Score:
    """Score a model; the modes of its modules are restored afterwards.

    Args:
        model: Gives logits ``(batch, classes)`` for images.
        images: Normalised images ``(n, channels, height, width)`` on the model's device.
        labels: Class indices ``(n,)`` on the same device.
        batch_size: Images a forward pass; None takes :func:`paying_batch_size`. It is halved, and
            that is logged, where memory does not hold so many.
        among: Classes ``(m,)`` that the decision is among, for images of some of the classes; the
            logits of the others count for nothing. None is all of them.
        scale_temperature: Whether the score has a calibrated loss, for which all logits are kept.

    Example:
        >>> evaluate(nn.Flatten(), torch.eye(3)[:, :, None, None], torch.tensor([0, 1, 0]))
        ... # doctest: +ELLIPSIS
        Score(accuracy=0.666..., loss=0.884..., n_images=3, calibrated=None)
    """
    # Sums stay on the device: the host waits once, at the end.
    right = torch.zeros((), dtype=torch.int64, device=labels.device)
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    kept: list[Tensor] = []
    with evaluation_mode(model):
        size = batch_size or paying_batch_size(model, images[0:1])
        parts = [slice(start, start + size) for start in range(0, len(labels), size)]
        for part, logits in logits_of(model, images, parts):
            y = labels[part]
            if among is not None:
                others = torch.ones(logits.shape[1], dtype=torch.bool, device=labels.device)
                others[among] = False
                logits = logits.masked_fill(others, -torch.inf)
            if scale_temperature:
                kept.append(logits)
            right += (logits.argmax(1) == y).sum()
            loss += F.cross_entropy(logits, y, reduction="sum").double()
    count = len(labels)
    scaled_loss = temperature_scaled_loss(torch.cat(kept), labels) if scale_temperature else None
    return Score(int(right.item()) / count, loss.item() / count, count, scaled_loss)
