"""Models of timm and transformers: creation, input format and check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import nn

from glora_automl._declarations import suggest
from glora_automl._messages import one_line, short
from glora_automl.adapters import classifiers, evaluation_mode
from glora_automl.backbones._names import PREFIX
from glora_automl.backbones._settings import BackboneSettings
from glora_automl.backbones._transformers import (
    image_format,
    is_transformers,
    transformers_model,
)
from glora_automl.errors import TaskError
from glora_automl.tasks import CropMode, InputFormat
from glora_automl.training import seeded

__all__ = [
    "check_backbone",
    "check_name",
    "create_model",
    "input_format",
    "set_pretrained_cfg",
    "timm_model",
]

_DROPPED = (
    *("test_input_size", "test_crop_pct"),
    *("label_offset", "label_names", "label_descriptions", "state_dict"),
)
"""Keys of ``pretrained_cfg`` on the backbone's own classes and test sizes."""

_SOURCE = ("url", "file", "hf_hub_id", "hf_hub_filename", "tag", "license", "origin_url")
"""Keys on the weights that timm downloads, wrong for other weights of the same model."""


def create_model(settings: BackboneSettings, n_classes: int, seed: int) -> nn.Module:
    """Create a model of timm or transformers with a new head, without checkpoint and pretraining.

    Raises:
        TaskError: If timm or transformers does not know the model or cannot create it.
    """
    if settings.model.startswith(PREFIX):
        return transformers_model(settings.model, n_classes, seed, settings.pretrained)
    return timm_model(settings, n_classes, seed, settings.pretrained, settings.kwargs)


def check_name(name: str) -> None:
    """Check that timm knows a model, unless a hub or folder may have it.

    Raises:
        TaskError: If timm does not know it.
    """
    if not timm.is_model(name) and not {"/", ":"} & set(name):
        hint = suggest(name, timm.list_models())
        if not hint.startswith("Did"):
            hint = "Choose a `backbone.model` of timm.list_models(), such as resnet50."
        raise TaskError(f"backbone.model must be a model of timm, got {name!r}. {hint}")


def timm_model(
    settings: BackboneSettings, n_classes: int, seed: int, pretrained: bool, kwargs: dict[str, Any]
) -> nn.Module:
    """Call ``timm.create_model``; the settings are for error messages.

    Raises:
        TaskError: If timm does not know the model or cannot create it.
    """
    check_name(settings.model)
    try:
        with seeded(seed):
            model: nn.Module = timm.create_model(
                settings.model, pretrained=pretrained, num_classes=n_classes, **kwargs
            )
    except Exception as error:  # timm and the hub raise any exception on wrong settings
        source = (
            f"pretrained = {settings.pretrained} and kwargs {short(settings.kwargs)}"
            if settings.checkpoint is None or not pretrained
            else f"checkpoint = {short(settings.checkpoint, 40)}"
        )
        hint = "Correct `backbone.kwargs` or the source of the weights."
        if pretrained and settings.checkpoint is None:
            hint = (
                "Set `backbone.checkpoint = FILE` for local weights, or correct `backbone.kwargs`."
            )
        if isinstance(error, TypeError) and "'img_size'" in str(error):
            hint = "Set pretrained_cfg_overlay.input_size in `backbone.kwargs` instead."
        raise TaskError(
            f"backbone must be a model that timm can create, got {settings.model!r} with {source}: "
            f"{one_line(error)}. {hint}"
        ) from error
    return model


def input_format(model: nn.Module, settings: BackboneSettings) -> InputFormat:
    """Return the input format of a model from its configuration and the settings.

    A timm model has ``pretrained_cfg``, one of transformers an image processor.

    Raises:
        TaskError: If ``mean`` or ``std`` has another number of channels than the model.
    """
    config: dict[str, Any]
    if is_transformers(model):
        found = image_format(model)
        config = {**found._asdict(), "input_size": found.size}
    else:
        config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    channels, height, width = config["input_size"]
    channels = settings.kwargs.get("in_chans", channels)
    size = settings.kwargs.get("img_size", (height, width))
    height, width = (size, size) if isinstance(size, int) else size
    mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
    if len(mean) != channels:  # in_chans was overridden: average over the colours
        mean = (sum(mean) / len(mean),) * channels
        std = (sum(std) / len(std),) * channels
    for key, value in (("mean", settings.mean), ("std", settings.std)):
        if value is not None and len(value) != channels:
            raise TaskError(
                f"backbone.{key} must have one value for each of the model's {channels} channels, "
                f"got {list(value)}. Correct `backbone.{key}`."
            )
    mean, std = settings.mean or mean, settings.std or std
    size = (channels, height, width)
    return InputFormat(size, mean, std, config["interpolation"], config["crop_pct"])


def set_pretrained_cfg(
    model: nn.Module,
    target: InputFormat,
    crop_mode: CropMode,
    classes: Sequence[str],
    *,
    is_remote: bool,
) -> None:
    """Write classes and preprocessing of a study into a timm model's ``pretrained_cfg``.

    ``timm.data.resolve_model_data_config`` then gives the preprocessing of the training. A model
    without the attribute stays as it is.

    Args:
        model: The model, which gets a new ``pretrained_cfg``.
        target: Its input format.
        crop_mode: How images get its size.
        classes: Class names, in the order of the logits.
        is_remote: Whether its backbone has the weights that timm downloads. Without, the keys on
            their source are left out.

    Example:
        >>> model = timm.create_model("test_vit", num_classes=2)
        >>> target = InputFormat((3, 160, 160), (0.5,) * 3, (0.5,) * 3)
        >>> set_pretrained_cfg(model, target, "squash", ("cat", "dog"), is_remote=False)
        >>> config = resolve_model_data_config(model)
        >>> config["crop_mode"], config["crop_pct"], model.pretrained_cfg["label_names"]
        ('squash', 1.0, ['cat', 'dog'])
    """
    original: Any = getattr(model, "pretrained_cfg", None)
    if not isinstance(original, Mapping):
        return
    dropped = _DROPPED if is_remote else (*_DROPPED, *_SOURCE)
    config: Any = {key: value for key, value in original.items() if key not in dropped}
    config |= {
        "num_classes": len(classes),
        "label_names": list(classes),
        "input_size": target.size,
        "interpolation": target.interpolation,
        "crop_pct": target.crop_pct if crop_mode == "center" else 1.0,
        "crop_mode": crop_mode,
        "mean": target.mean,
        "std": target.std,
        "custom_load": False,  # the weights are in timm's own format
    }
    model.pretrained_cfg = model.default_cfg = config  # timm's old name of the same


def check_backbone(
    model: nn.Module, settings: BackboneSettings, target: InputFormat, n_classes: int
) -> None:
    """Check that a model is a classifier for images of the format ``target``.

    Raises:
        TaskError: If it has no classifier, fails on such images, or returns another shape than
            ``(batch, n_classes)``.
    """
    if not any(True for head in classifiers(model) for _ in head.parameters()):
        raise TaskError(
            "backbone.model must have a classifier that timm's get_classifier returns, got "
            f"{settings.model!r} with kwargs {settings.kwargs}. Choose another `backbone.model`."
        )
    device = next(model.parameters()).device
    size = " x ".join(map(str, target.size))
    try:
        with evaluation_mode(model), torch.no_grad():
            scores = model(torch.zeros(2, *target.size, device=device))
    except Exception as error:  # layers raise any exception on a wrong size
        raise TaskError(
            f"backbone must take images of {size}, got {settings.model!r}, which fails: "
            f"{one_line(error)}. Set img_size in `backbone.kwargs`, or pretrained_cfg_overlay."
            "input_size there for a model without img_size."
        ) from error
    if not isinstance(scores, torch.Tensor) or scores.shape != (2, n_classes):
        raise TaskError(
            f"backbone.model must return one score for each of {n_classes} classes, got another "
            f"output from {settings.model!r} with kwargs {settings.kwargs}. "
            "Correct `backbone.kwargs`."
        )
