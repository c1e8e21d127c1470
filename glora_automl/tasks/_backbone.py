"""Backbones from timm: created, pretrained on the fly if asked, and cached by digest."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import Field, model_validator
from timm.data.config import resolve_model_data_config
from torch import nn

from glora_automl._declarations import Bool, Declaration, suggest
from glora_automl._files import file_lock, make_folder
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.supernet import (
    TrainingSettings,
    load_checkpoint,
    save_checkpoint,
    seeded,
    train,
)
from glora_automl.tasks._images import InputFormat, Task

__all__ = [
    "BackboneSettings",
    "check_pretraining",
    "create_backbone",
    "create_model",
    "input_format",
]


class BackboneSettings(Declaration):
    """Which timm model is adapted and where its weights come from.

    Attributes:
        model: A name that ``timm.create_model`` knows.
        pretrained: Whether timm downloads its pretrained weights.
        kwargs: Further keyword arguments of ``timm.create_model``.
        pretraining: Trains the model from scratch on the task's pretraining images first. The
            weights are cached by the digest of everything that they depend on.
    """

    model: str
    pretrained: Bool = False
    kwargs: dict[str, Any] = Field(default_factory=dict)
    pretraining: TrainingSettings | None = None

    @model_validator(mode="after")
    def _one_source(self) -> BackboneSettings:
        if self.pretrained and self.pretraining is not None:
            raise ValueError("pretrained and pretraining exclude each other; leave one out.")
        if reserved := {"pretrained", "num_classes"} & set(self.kwargs):
            raise ValueError(f"kwargs must not contain {sorted(reserved)[0]!r}; it is set for you.")
        return self


def input_format(model: nn.Module, settings: BackboneSettings) -> InputFormat:
    """What a timm model wants to see, from its ``pretrained_cfg`` and the keyword overrides."""
    config: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    channels, height, width = config["input_size"]
    channels = settings.kwargs.get("in_chans", channels)
    size = settings.kwargs.get("img_size", (height, width))
    height, width = (size, size) if isinstance(size, int) else size
    mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
    if len(mean) != channels:  # in_chans was overridden: take the mean over the colours
        mean = (sum(mean) / len(mean),) * channels
        std = (sum(std) / len(std),) * channels
    size = (channels, height, width)
    return InputFormat(size, mean, std, config["interpolation"], config["crop_pct"])


def create_model(settings: BackboneSettings, classes: int, seed: int) -> nn.Module:
    """Create a timm model with a head for so many classes, without pretraining.

    Raises:
        TaskError: If timm does not know it or cannot create it.
    """
    if not timm.is_model(settings.model) and "/" not in settings.model:
        hint = suggest(settings.model, timm.list_models())
        if not hint.startswith("did"):
            hint = "timm.list_models() names those there are."
        raise TaskError(f"backbone.model: timm has no model {settings.model!r}; {hint}")
    try:
        with seeded(seed):
            model: nn.Module = timm.create_model(
                settings.model,
                pretrained=settings.pretrained,
                num_classes=classes,
                **settings.kwargs,
            )
    except Exception as error:  # whatever timm or the hub raises, the cause is in the recipe
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TaskError(
            f"backbone: timm cannot create {settings.model!r} with pretrained = "
            f"{settings.pretrained} and kwargs {settings.kwargs}: {reason}"
        ) from error
    return model


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
    """Create the backbone with a fresh head for the task's classes, on ``device``.

    Args:
        settings: What to create.
        task: Gives the number of classes and the pretraining images.
        seed: Seeds initial values and pretraining.
        device: Where the model goes.
        cache: Folder of the cached weights.
        progress: Shows the pretraining.
        stop: Asked after each step of the pretraining whether to stop.

    Raises:
        Stopped: If that was asked for.
        TaskError: If timm cannot create it, or there are no pretraining images.
        TrainingError: If the pretraining diverges.
        CheckpointError: If the cached weights are altered.
    """
    if settings.pretraining is None:
        return create_model(settings, len(task.classes), seed).to(device)
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
    # Studies that start together share the folder: one trains, the others wait and load.
    with file_lock(path.with_suffix(".lock")):
        found = load_checkpoint(path)
        if found is not None and set(found[0]) == set(model.state_dict()):
            model.load_state_dict(found[0])
        else:
            unfinished = path.with_name(f"{path.stem}-training.json")
            _pretrain(model, settings, task, seed, unfinished, progress or Progress(), stop)
            save_checkpoint(path, model.state_dict(), identity)
            for file in cache.glob(f"{unfinished.stem}*"):
                file.unlink(missing_ok=True)
    # The seed gives the new head its values.
    with seeded(seed):
        cpu = copy.deepcopy(model).cpu()
        cpu.reset_classifier(len(task.classes))  # type: ignore[operator]
    return cpu.to(device)


def check_pretraining(settings: BackboneSettings, task: Task) -> None:
    """Refuse a pretraining without images for it.

    Raises:
        TaskError: If the task sets none aside.
    """
    if settings.pretraining is not None and task.pretraining is None:
        raise TaskError(
            f"backbone.pretraining needs pretraining images, but the task {task.name!r} sets "
            "none aside; set task.pretraining_classes."
        )


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
            stage="pretraining",
            checkpoint=checkpoint,
            on_epoch=on_epoch,
            stop=stop,
        )
