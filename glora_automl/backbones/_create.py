"""Creation of the backbone: weights from a checkpoint, a pretraining, timm or the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import torch
from torch import nn

from glora_automl._files import file_lock, make_folder
from glora_automl._signals import call_stoppable
from glora_automl.adapters import classifiers
from glora_automl.backbones._checkpoint import check_sha256, load_npz, read_weights
from glora_automl.backbones._hub import check_hub
from glora_automl.backbones._model import create_model, timm_model
from glora_automl.backbones._pretraining import create_pretrained
from glora_automl.backbones._settings import BackboneSettings
from glora_automl.progress import Progress
from glora_automl.tasks import Task

__all__ = ["create_backbone", "create_from_checkpoint"]


def create_backbone(
    settings: BackboneSettings,
    task: Task,
    *,
    seed: int,
    device: torch.device,
    cache: Path,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> nn.Module:
    """Create the backbone with a new head for the task's classes, on ``device``.

    Args:
        settings: Model and source of its weights.
        task: Task with the classes and the pretraining images.
        seed: Seed of initial values and pretraining.
        device: Device of the model.
        cache: Folder of cached pretrained weights.
        progress: Display of the pretraining, and of waiting for another process.
        stop: Called after each step of the pretraining, while waiting and during a download; True
            stops it.

    Raises:
        Stopped: If ``stop`` returns True.
        TaskError: If timm cannot create the model, if the checkpoint is missing, altered or of
            another model, or if there are no pretraining images.
        TrainingError: If the pretraining diverges.
        CheckpointError: If the cached weights are altered.
    """
    if settings.checkpoint is not None:
        return create_from_checkpoint(settings, len(task.classes), seed).to(device)
    if settings.pretraining is None:
        create = partial(create_model, settings, len(task.classes), seed)
        if not settings.pretrained:
            return create().to(device)
        with _download(settings, cache, progress, stop):
            call_stoppable(partial(check_hub, settings), stop)
            return call_stoppable(create, stop).to(device)
    return create_pretrained(
        settings, task, seed=seed, device=device, cache=cache, progress=progress, stop=stop
    )


def _download(
    settings: BackboneSettings,
    cache: Path,
    progress: Progress | None,
    stop: Callable[[], bool] | None,
) -> AbstractContextManager[None]:
    """Let one process of this machine download; the hub's own lock would hear no signal."""
    make_folder(cache)
    return file_lock(
        cache / f"{hashlib.sha256(settings.model.encode()).hexdigest()[:16]}.lock",
        stop=stop,
        log=(progress or Progress()).log,
        holder="which downloads the backbone",
    )


def create_from_checkpoint(settings: BackboneSettings, n_classes: int, seed: int) -> nn.Module:
    """Create the model with the weights of a local checkpoint and a new head.

    Raises:
        TaskError: If timm cannot create the model, or the checkpoint is missing, altered or of
            another model.
    """
    assert settings.checkpoint is not None
    path = Path(settings.checkpoint)
    check_sha256(path, settings.sha256)
    model = create_model(settings, n_classes, seed)
    heads = {id(p) for module in classifiers(model) for p in module.parameters()}
    head = {name: p.detach().clone() for name, p in model.named_parameters() if id(p) in heads}
    if path.suffix == ".npz":
        load_npz(model, path)
        model.load_state_dict(head, strict=False)
        return model
    # Passed to timm as pretrained weights: timm converts original formats, resizes position
    # embeddings, and requires all other tensors.
    overlay = {
        **settings.kwargs.get("pretrained_cfg_overlay", {}),
        "source": "",
        "state_dict": {**read_weights(path), **head},
        "num_classes": n_classes,
        "label_offset": 0,
        "custom_load": False,
    }
    kwargs = {**settings.kwargs, "pretrained_cfg_overlay": overlay}
    loaded = timm_model(settings, n_classes, seed, True, kwargs).state_dict()
    # Copied to the first model, whose pretrained_cfg does not hold the weights.
    model.load_state_dict({**loaded, **head})
    return model
