"""The optimiser and the learning rate schedule of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from glora_automl.adapters import is_scaling
from glora_automl.training._settings import TrainingSettings

__all__ = ["create_optimizer", "create_scheduler", "in_optimizer_order"]


def in_optimizer_order(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Return the parameters in the optimiser's order: scaling parameters last.

    An optimiser numbers its parameters and a checkpoint names them, so both need one order.
    """
    return dict(sorted(parameters.items(), key=lambda item: is_scaling(item[0])))


def create_optimizer(
    parameters: Mapping[str, nn.Parameter], settings: TrainingSettings
) -> torch.optim.Optimizer:
    """Create AdamW with one parameter group per learning rate.

    Args:
        parameters: Trained parameters by name, in the optimiser's order.
        settings: Learning rates and weight decay.
    """
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in parameters.items() if not is_scaling(name)]},
        {
            "params": [p for name, p in parameters.items() if is_scaling(name)],
            "lr_scale": settings.scaling_lr_ratio,  # timm's schedulers read it
        },
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        # One pass over all tensors. It takes a fifth of the time on a CPU for small tensors, and
        # does not make the host wait for a float16 training's gradients.
        fused=True,
    )


def create_scheduler(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, n_steps: int
) -> CosineLRScheduler:
    """Create the schedule: linear warm-up, then one cosine down to 0.

    Args:
        optimizer: The optimiser, whose learning rates are the peak.
        settings: Epochs, warm-up epochs and learning rate.
        n_steps: Steps per epoch; the schedule counts steps.
    """
    warmup = settings.warmup_epochs * n_steps
    return CosineLRScheduler(
        optimizer,
        # The first step is at the peak in any case; timm warns of a cosine over one.
        t_initial=max((settings.epochs - settings.warmup_epochs) * n_steps, 2),
        warmup_t=warmup,
        warmup_lr_init=settings.lr / (warmup + 1),
        warmup_prefix=True,  # the cosine begins at the peak
        t_in_epochs=False,
    )
