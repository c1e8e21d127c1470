"""Backbones from timm: created, pretrained on the fly if asked, and cached by digest."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
from pydantic import Field, model_validator
from timm.data.config import resolve_model_data_config
from torch import nn

from glora_automl._declarations import Bool, Declaration, Float, suggest
from glora_automl._files import file_lock, make_folder
from glora_automl.adapters import classifiers, evaluation_mode
from glora_automl.backbones._local import (
    SUFFIXES,
    check_sha256,
    file_sha256,
    load_npz,
    one_line,
    read_weights,
)
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks import InputFormat, Task
from glora_automl.training import TrainingSettings, load_checkpoint, save_checkpoint, seeded, train

__all__ = [
    "BackboneSettings",
    "check_backbone",
    "check_pretraining",
    "create_backbone",
    "create_from_checkpoint",
    "create_model",
    "input_format",
]


class BackboneSettings(Declaration):
    """Which timm model is adapted and where its weights come from.

    Attributes:
        model: A name that ``timm.create_model`` knows.
        pretrained: Whether timm downloads its pretrained weights.
        kwargs: Further keyword arguments of ``timm.create_model``.
        checkpoint: A file with the model's weights: safetensors, an original ``.npz``, or of
            ``torch.save`` with tensors alone. Its classifier may have other classes or be
            missing, and is made anew.
        sha256: Digest of that file; a study keeps it, so that nobody goes on with another one.
        mean: Channel means that are subtracted from images in 0 to 1, if not the model's.
        std: Channel deviations that are divided by, if not the model's.
        pretraining: Trains the model from scratch on the task's pretraining images first. The
            weights are cached by the digest of everything that they depend on.
    """

    model: str
    pretrained: Bool = False
    kwargs: dict[str, Any] = Field(default_factory=dict)
    checkpoint: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    mean: tuple[Float, ...] | None = None
    std: tuple[Annotated[Float, Field(gt=0)], ...] | None = None
    pretraining: TrainingSettings | None = None

    @model_validator(mode="after")
    def _one_source(self) -> BackboneSettings:
        sources = {
            "pretrained": self.pretrained,
            "checkpoint": self.checkpoint is not None,
            "pretraining": self.pretraining is not None,
        }
        chosen = [name for name, is_chosen in sources.items() if is_chosen]
        if len(chosen) > 1:
            raise ValueError(f"{chosen[0]} and {chosen[1]} exclude each other; leave one out.")
        if self.checkpoint is not None and not self.checkpoint.endswith(SUFFIXES):
            raise ValueError(
                f"checkpoint must end in one of {', '.join(SUFFIXES)}, got {self.checkpoint!r}."
            )
        if self.sha256 is not None and self.checkpoint is None:
            raise ValueError("sha256 is that of checkpoint, which is missing; add it.")
        if reserved := {"pretrained", "num_classes"} & set(self.kwargs):
            raise ValueError(f"kwargs must not contain {sorted(reserved)[0]!r}; it is set for you.")
        return self

    @property
    def is_local(self) -> bool:
        """Whether the weights are nowhere but here, so that a study has to keep them."""
        return self.checkpoint is not None or self.pretraining is not None

    def pinned(self) -> BackboneSettings:
        """The same with the digest of the checkpoint as it is here, where none is given.

        Raises:
            TaskError: If the checkpoint cannot be read.
        """
        if self.checkpoint is None or self.sha256 is not None:
            return self
        return self.model_copy(update={"sha256": file_sha256(Path(self.checkpoint))})


def input_format(model: nn.Module, settings: BackboneSettings) -> InputFormat:
    """What a timm model wants to see, from its ``pretrained_cfg`` and the settings.

    Raises:
        TaskError: If the settings give means or deviations for another number of channels.
    """
    config: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    channels, height, width = config["input_size"]
    channels = settings.kwargs.get("in_chans", channels)
    size = settings.kwargs.get("img_size", (height, width))
    height, width = (size, size) if isinstance(size, int) else size
    mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
    if len(mean) != channels:  # in_chans was overridden: take the mean over the colours
        mean = (sum(mean) / len(mean),) * channels
        std = (sum(std) / len(std),) * channels
    for key, value in (("mean", settings.mean), ("std", settings.std)):
        if value is not None and len(value) != channels:
            raise TaskError(
                f"backbone.{key} must have one value for each of the model's {channels} channels, "
                f"got {list(value)}."
            )
    mean, std = settings.mean or mean, settings.std or std
    size = (channels, height, width)
    return InputFormat(size, mean, std, config["interpolation"], config["crop_pct"])


def create_model(settings: BackboneSettings, classes: int, seed: int) -> nn.Module:
    """Create a timm model with a head for so many classes, without checkpoint and pretraining.

    Raises:
        TaskError: If timm does not know it or cannot create it.
    """
    return _create(settings, classes, seed, settings.pretrained, settings.kwargs)


def _create(
    settings: BackboneSettings, classes: int, seed: int, pretrained: bool, kwargs: dict[str, Any]
) -> nn.Module:
    if not timm.is_model(settings.model) and not {"/", ":"} & set(settings.model):
        hint = suggest(settings.model, timm.list_models())
        if not hint.startswith("did"):
            hint = "timm.list_models() names those there are."
        raise TaskError(f"backbone.model: timm has no model {settings.model!r}; {hint}")
    try:
        with seeded(seed):
            model: nn.Module = timm.create_model(
                settings.model, pretrained=pretrained, num_classes=classes, **kwargs
            )
    except Exception as error:  # whatever timm or the hub raises, the cause is in the recipe
        source = (
            f"pretrained = {settings.pretrained}"
            if settings.checkpoint is None or not pretrained
            else f"checkpoint = {settings.checkpoint!r}"
        )
        hint = ""
        if isinstance(error, TypeError) and "'img_size'" in str(error):
            hint = "; it takes any size, which kwargs.pretrained_cfg_overlay.input_size sets"
        raise TaskError(
            f"backbone: timm cannot create {settings.model!r} with {source} and kwargs "
            f"{settings.kwargs}: {one_line(error)}{hint}"
        ) from error
    return model


def check_backbone(
    model: nn.Module, settings: BackboneSettings, target: InputFormat, classes: int
) -> None:
    """Refuse a model that is no classifier, or that cannot take the images that it is given.

    Raises:
        TaskError: If it is.
    """
    if not any(True for head in classifiers(model) for _ in head.parameters()):
        raise TaskError(
            f"backbone.model must have a classifier that timm's get_classifier names; "
            f"{settings.model!r} with kwargs {settings.kwargs} has none."
        )
    device = next(model.parameters()).device
    size = " x ".join(map(str, target.size))
    try:
        with evaluation_mode(model), torch.no_grad():
            scores = model(torch.zeros(2, *target.size, device=device))
    except Exception as error:  # whatever the layers raise, the size is what they were given
        raise TaskError(
            f"backbone: {settings.model!r} cannot take images of {size}: {one_line(error)}; set "
            "another size with kwargs.img_size, or with kwargs.pretrained_cfg_overlay.input_size "
            "where the model does not know img_size."
        ) from error
    if not isinstance(scores, torch.Tensor) or scores.shape != (2, classes):
        raise TaskError(
            f"backbone.model must give one score for each of {classes} classes; {settings.model!r} "
            f"with kwargs {settings.kwargs} gives something else."
        )


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
        TaskError: If timm cannot create it, its checkpoint is not there, is altered or of another
            model, or there are no pretraining images.
        TrainingError: If the pretraining diverges.
        CheckpointError: If the cached weights are altered.
    """
    if settings.checkpoint is not None:
        return create_from_checkpoint(settings, len(task.classes), seed).to(device)
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


def create_from_checkpoint(settings: BackboneSettings, classes: int, seed: int) -> nn.Module:
    """Create the model with the weights of a local checkpoint and a fresh head.

    Raises:
        TaskError: If timm cannot create it, or its checkpoint is not there, is altered or of
            another model.
    """
    assert settings.checkpoint is not None
    path = Path(settings.checkpoint)
    check_sha256(path, settings.sha256)
    model = create_model(settings, classes, seed)
    heads = {id(p) for module in classifiers(model) for p in module.parameters()}
    head = {name: p.detach().clone() for name, p in model.named_parameters() if id(p) in heads}
    if path.suffix == ".npz":
        load_npz(model, path)
        model.load_state_dict(head, strict=False)
        return model
    # timm loads it as its own pretrained weights: it converts original formats, resizes position
    # embeddings, and insists on all other tensors.
    overlay = {
        **settings.kwargs.get("pretrained_cfg_overlay", {}),
        "source": "",
        "state_dict": {**read_weights(path), **head},
        "num_classes": classes,
        "label_offset": 0,
        "custom_load": False,
    }
    kwargs = {**settings.kwargs, "pretrained_cfg_overlay": overlay}
    loaded = _create(settings, classes, seed, True, kwargs).state_dict()
    # Into the first one, whose configuration does not carry the weights along.
    model.load_state_dict({**loaded, **head})
    return model


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
