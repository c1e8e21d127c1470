"""Ranking figures of a frozen backbone: leave-one-out accuracy and latency."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from glora_automl.adapters import evaluation_mode

__all__ = ["forward_latency", "leave_one_out_accuracy"]

PENALTIES = np.logspace(-1, 5, 13)
"""Penalties on standardized features."""

N_REPEATS = 7


def leave_one_out_accuracy(features: Tensor, labels: Tensor) -> float:
    """Return the leave-one-out accuracy of a ridge classifier with its best penalty.

    It has a closed form: one decomposition of the features serves all images and penalties
    (Rifkin & Lippert, Notes on regularized least squares, 2007).

    Args:
        features: Finite features ``(n, size)``.
        labels: Class indices ``(n,)``.

    Example:
        >>> x = torch.tensor([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2]])
        >>> leave_one_out_accuracy(x, torch.tensor([0, 0, 0, 1, 1, 1]))
        1.0
    """
    classes, y = np.unique(labels.cpu().numpy(), return_inverse=True)
    if len(classes) == 1:
        return 1.0
    x = StandardScaler().fit_transform(features.cpu().double().numpy())
    # With a scoring it stores predictions instead of errors. RidgeClassifierCV would score all
    # images of two classes as correct.
    ridge = RidgeCV(PENALTIES, scoring="neg_mean_squared_error", store_cv_results=True)
    scores = ridge.fit(x, np.eye(len(classes))[y]).cv_results_
    is_correct = scores.argmax(axis=1) == y[:, None]
    return float(is_correct.mean(axis=0).max())


@torch.inference_mode()
def forward_latency(model: nn.Module, image: Tensor) -> float:
    """Return the median time of a forward pass at batch size 1, in milliseconds.

    Args:
        model: The model.
        image: One image ``(1, channels, height, width)`` on the model's device.
    """
    seconds = []
    with evaluation_mode(model):
        for _ in range(2 + N_REPEATS):
            _wait(image.device)
            begin = time.perf_counter()
            model(image)
            _wait(image.device)
            seconds.append(time.perf_counter() - begin)
    # The first calls choose algorithms and fill caches.
    return 1000 * statistics.median(seconds[2:])


def _wait(device: torch.device) -> None:
    if device.type != "cpu":  # an accelerator returns before its work is done
        torch.accelerator.synchronize(device)
