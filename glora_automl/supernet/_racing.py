"""Scoring a model only until it is clear that it will not be good enough."""

from __future__ import annotations

import functools
import math

import torch
from scipy.stats import hypergeom
from torch import Tensor, nn
from torch.nn import functional as F

from glora_automl.adapters import evaluation_mode
from glora_automl.supernet._batches import ImageBatches
from glora_automl.supernet._evaluation import Score, logits_of, paying_batch_size

__all__ = ["race"]

_SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
"""Shares of the images after which is looked whether to go on; denser where most models end."""


@functools.lru_cache(maxsize=4096)
def stopping_rule(images: int, needed: int, error_rate: float) -> tuple[tuple[int, int], ...]:
    """When to stop: after so many images, if at most so many were right.

    The first ``m`` of ``n`` images in random order hold a hypergeometric number of the ``K`` that
    a model gets right, so ``P(X <= x)`` under the smallest ``K`` that is needed bounds the chance
    to stop a model that would get there. Each of the looks has an equal part of the error rate
    (Bonferroni). A model that cannot get there even with all the rest right is stopped, too.

    Args:
        images: How many there are.
        needed: How many a model has to get right.
        error_rate: Chance, over the order of the images, to stop a model that would get there.

    Example:
        >>> stopping_rule(16, 12, 0.0)
        ((6, 1), (8, 3), (10, 5), (12, 7), (14, 9))
    """
    looks = sorted({math.ceil(share * images) for share in _SHARES if share * images >= 1})
    rule = []
    for seen in looks:
        hopeless = needed - (images - seen) - 1
        right = int(hypergeom.ppf(error_rate / len(looks), images, needed, seen))
        # ppf is the least x that reaches the level, so the one below stays under it.
        unlikely = (
            right if _under(right, images, needed, seen, error_rate / len(looks)) else right - 1
        )
        most = max(hopeless, unlikely)
        if 0 <= most < seen < images:
            rule.append((seen, most))
    return tuple(rule)


def _under(right: int, images: int, needed: int, seen: int, level: float) -> bool:
    return right >= 0 and float(hypergeom.cdf(right, images, needed, seen)) <= level


@torch.inference_mode()
def race(
    model: nn.Module,
    images: ImageBatches,
    labels: Tensor,
    *,
    threshold: float,
    error_rate: float,
    batch_size: int | None = None,
) -> Score:
    """Score a model on images in random order, and stop when it will not reach an accuracy.

    A model whose accuracy on all the images is at least ``threshold`` is stopped with a
    probability of at most ``error_rate`` over the order of the images. The order may be the same
    for all models; then their errors are not independent.

    Args:
        model: Gives logits ``(batch, classes)`` for images.
        images: Normalised images ``(n, channels, height, width)`` in random order, on the model's
            device.
        labels: Class indices ``(n,)`` on the same device.
        threshold: Accuracy that has to be reached.
        error_rate: See above; 0 stops only what cannot reach it with all the rest right.
        batch_size: Images a forward pass; see :func:`~glora_automl.supernet.evaluate`.

    Returns:
        The score on the images that were seen: ``images`` of it is less than ``n`` if the model
        was stopped.

    Example:
        >>> images, labels = torch.eye(2)[[0] * 64][:, :, None, None], torch.ones(64).long()
        >>> race(nn.Flatten(), images, labels, threshold=0.5, error_rate=0.05).images
        8
    """
    count = len(labels)
    # Accuracies are ratios of counts: without the small number 0.3 * 10 would need 4.
    needed = math.ceil(threshold * count - 1e-9)
    rule = stopping_rule(count, needed, error_rate) if needed > 0 else ()
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    right, start = 0, 0
    with evaluation_mode(model):
        size = batch_size or paying_batch_size(model, images[0:1])
        for end, most in (*rule, (count, -1)):
            correct = torch.zeros((), dtype=torch.int64, device=labels.device)
            firsts = range(start, end, size)
            parts = [slice(first, min(first + size, end)) for first in firsts]
            for part, logits in logits_of(model, images, parts):
                correct += (logits.argmax(1) == labels[part]).sum()
                loss += F.cross_entropy(logits, labels[part], reduction="sum").double()
            right, start = right + int(correct.item()), end
            if right <= most:
                break
    return Score(right / start, loss.item() / start, start)
