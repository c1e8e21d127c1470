"""Modules that a caller has: their head, their input format and a check."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import torch
from torch import nn

from glora_automl._declarations import suggest
from glora_automl._messages import one_line
from glora_automl.adapters import classifiers, evaluation_mode
from glora_automl.backbones._model import input_format
from glora_automl.backbones._settings import BackboneSettings
from glora_automl.backbones._transformers import as_transformers, is_transformers, logits_model
from glora_automl.errors import TaskError
from glora_automl.tasks import Images, ImageSet, InputFormat, TensorImages

__all__ = ["check_outputs", "copy_module", "module_format", "name_head", "restore_module"]


def copy_module(model: object, head: str | None) -> nn.Module:
    """Return a copy of a caller's module that gives logits and names its head.

    Args:
        model: The module.
        head: As for :func:`name_head`; None keeps the head that timm's ``get_classifier`` names.

    Raises:
        TaskError: If it is no module, or has no such head.
    """
    if not isinstance(model, nn.Module):
        raise TaskError(
            f"model must be a timm name or a torch.nn.Module, got {type(model).__name__}. Correct "
            "`model`."
        )
    copied = copy.deepcopy(model)
    if is_transformers(copied):
        copied = logits_model(copied)
    if head is not None or not any(True for m in classifiers(copied) for _ in m.parameters()):
        name_head(copied, head)
    return copied


def restore_module(model: nn.Module) -> nn.Module:
    """Undo the changes of :func:`copy_module` in place, and return the module."""
    vars(model).pop("get_classifier", None)  # of name_head
    return as_transformers(model)


def name_head(model: nn.Module, head: str | None) -> None:
    """Give a module timm's ``get_classifier``, by which the rest of the package knows the head.

    Args:
        model: The module, which gets the method.
        head: Dotted name of its classifier; None is its last linear layer.

    Raises:
        TaskError: If there is no such module, or it has no parameters.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> name_head(model, None)
        >>> model.get_classifier()
        Linear(in_features=3, out_features=2, bias=True)
    """
    modules = dict(model.named_modules())
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear) and name]
    name = head or (linear[-1] if linear else "")
    if not name or name not in modules or not any(True for _ in modules[name].parameters()):
        raise TaskError(
            f"head must name a layer of the model that has parameters, got {head!r}. "
            f"{suggest(name, linear)}"
        )
    # A bound method, as a copy of the model then gets a method of its own.
    method = MethodType(lambda module: module.get_submodule(name), model)
    model.get_classifier = method  # type: ignore[assignment]


def module_format(model: nn.Module, settings: BackboneSettings, images: Images) -> InputFormat:
    """Return the input format of a model for images of a caller.

    Models of timm and transformers have a preprocessing of their own for uint8 images. Other images
    keep their size, with pixels from 0 to 1.

    Args:
        model: The model.
        settings: Its settings; their ``mean``, ``std`` and ``kwargs`` count.
        images: The images.
    """
    assert isinstance(images, ImageSet | TensorImages)
    channels, height, width = images.images.shape[1:]
    if isinstance(images, TensorImages):
        return InputFormat((channels, height, width), (0.0,) * channels, (1.0,) * channels)
    if is_transformers(model):
        return input_format(model, settings)
    if not hasattr(model, "pretrained_cfg"):
        return InputFormat((channels, height, width), (0.0,) * channels, (1.0,) * channels)
    # A model that was created with other sizes keeps its pretrained_cfg.
    own: dict[str, Any] = {}
    first = next((p for p in model.parameters() if p.ndim == 4), None)
    if first is not None:
        own["in_chans"] = first.shape[1]
    if (size := getattr(getattr(model, "patch_embed", None), "img_size", None)) is not None:
        own["img_size"] = size
    return input_format(model, settings.model_copy(update={"kwargs": {**own, **settings.kwargs}}))


@torch.no_grad()
def check_outputs(
    model: nn.Module, images: Images, name: str, target: InputFormat, n_classes: int
) -> None:
    """Check that a model gives logits for images.

    Args:
        model: The model.
        images: The images, of which it sees two.
        name: Name of their argument, for messages.
        target: Input format of the model.
        n_classes: Number of classes.

    Raises:
        TaskError: If it fails or gives another output.
    """
    device = next(model.parameters()).device
    batch = images.subset(torch.arange(min(2, len(images)))).prepare(target, device)[0][:]
    try:
        with evaluation_mode(model):
            logits = model(batch)
    except Exception as error:  # layers raise any exception on a wrong size
        raise TaskError(
            f"{name} must be images that the model takes, got a batch of shape "
            f"{tuple(batch.shape)}, for which it fails: {one_line(error)}. Correct `{name}`."
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[1] < n_classes:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise TaskError(
            f"model must return logits of shape (n, {n_classes}) or with more classes, got {got}. "
            "Correct the labels or the classifier of `model`."
        )
