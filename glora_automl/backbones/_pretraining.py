"""Pretraining of a backbone on the task's pretraining images, with a cache."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

from glora_automl._files import file_lock, make_folder, remove_torn
from glora_automl.backbones._model import create_model, input_format
from glora_automl.backbones._settings import BackboneSettings
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks import Task
from glora_automl.training import PRETRAINING, load_checkpoint, save_checkpoint, seeded, train

__all__ = ["check_pretraining", "create_pretrained"]


def check_pretraining(settings: BackboneSettings, task: Task) -> None:
    """Check that a task has images for the pretraining that the settings ask for.

    Raises:
        TaskError: If it has none.
    """
    if settings.pretraining is not None and task.pretraining is None:
        raise TaskError(
            "backbone.pretraining must be unset for a task without pretraining images, got the "
            f"task {task.name!r}. Set `task.pretraining_classes` or remove `backbone.pretraining`."
        )


def create_pretrained(
    settings: BackboneSettings,
    task: Task,
    *,
    seed: int,
    device: torch.device,
    cache: Path,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> nn.Module:
    """Create a backbone with pretrained weights, from the cache if possible, and a new head.

    For arguments and exceptions see :func:`create_backbone`.
    """
    check_pretraining(settings, task)
    assert task.pretraining is not None
    labels = task.pretraining.labels
    model = create_model(settings, int(labels.max()) + 1, seed).to(device)
    identity = {
        "settings": settings.model_dump(mode="json"),
        "data": task.pretraining.digest(),
        "seed": seed,
        "timm": timm.__version__,
        "torch": torch.__version__,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = cache / f"{digest[:16]}.json"
    make_folder(cache)
    # Studies that start together share the cache: one trains, the others wait and load.
    progress = progress or Progress()
    lock, holder = path.with_suffix(".lock"), "which pretrains the backbone"
    with file_lock(lock, stop=stop, log=progress.log, holder=holder):
        remove_torn(cache, f"{path.stem}*")
        cached = load_checkpoint(path)
        if cached is not None and set(cached[0]) == set(model.state_dict()):
            model.load_state_dict(cached[0])
        else:
            unfinished = path.with_name(f"{path.stem}-training.json")
            _pretrain(model, settings, task, seed, unfinished, progress, stop)
            save_checkpoint(path, model.state_dict(), identity)
            for file in cache.glob(f"{unfinished.stem}*"):
                file.unlink(missing_ok=True)
    # The seed sets the initial values of the new head, on any device.
    with seeded(seed):
        cpu = copy.deepcopy(model).cpu()
        cpu.reset_classifier(len(task.classes))  # type: ignore[operator]
    return cpu.to(device)


def _pretrain(
    model: nn.Module,
    settings: BackboneSettings,
    task: Task,
    seed: int,
    checkpoint: Path,
    progress: Progress,
    stop: Callable[[], bool] | None,
) -> None:
    assert settings.pretraining is not None
    assert task.pretraining is not None
    device = next(model.parameters()).device
    x, y = task.pretraining.prepare(input_format(model, settings), device)
    with progress.epochs("Pretrain backbone", settings.pretraining.epochs) as on_epoch:
        train(
            model,
            dict(model.named_parameters()),
            x,
            y,
            settings.pretraining,
            seed=seed,
            stage=PRETRAINING,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
            stop=stop,
        )
