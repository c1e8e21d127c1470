"""Modules that a caller has: their head, their input format and a check."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from glora_automl._declarations import suggest
from glora_automl._messages import one_line, shorten
from glora_automl.adapters import classifiers, evaluation_mode
from glora_automl.backbones._model import create_model, input_format
from glora_automl.backbones._settings import BackboneSettings
from glora_automl.backbones._transformers import as_transformers, is_transformers, logits_model
from glora_automl.errors import TaskError
from glora_automl.tasks import Images, ImageSet, InputFormat, TensorImages

__all__ = [
    "check_outputs",
    "copy_module",
    "module_format",
    "name_head",
    "prepare_module",
    "restore_module",
]

N_NOISY = 4
"""Images of the comparison of logits and heads, enough that two classes do not agree by chance."""


def prepare_module(
    model: nn.Module | str,
    head: str | None,
    settings: BackboneSettings,
    train: Images,
    validation: Images,
    *,
    n_classes: int,
    seed: int,
) -> tuple[nn.Module, InputFormat]:
    """Return a caller's model as a backbone, and its input format.

    Args:
        model: A module, which is copied, or a timm name, whose weights are left out.
        head: As for :func:`name_head`.
        settings: Settings of the backbone.
        train: Training images.
        validation: Validation images.
        n_classes: Number of classes.
        seed: Seed of the weights of a timm name.

    Raises:
        TaskError: If it is no classifier of these images.
    """
    if isinstance(model, str):
        if head is not None:
            raise TaskError(f"head must be None for a timm name, got {head!r}. Remove `head`.")
        found = create_model(settings.model_copy(update={"pretrained": False}), n_classes, seed)
    else:
        found = copy_module(model)
    target = module_format(found, settings, train)
    seen = check_outputs(found, train, "train", target, n_classes)
    check_outputs(found, validation, "validation", target, n_classes)
    name_head(found, head, seen)
    return found, target


def copy_module(model: object) -> nn.Module:
    """Return a copy of a caller's module that gives logits; of a compiled one without compilation.

    Raises:
        TaskError: If it is no module, or cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise TaskError(
            f"model must be a timm name or a torch.nn.Module, got {type(model).__name__}. Correct "
            "`model`."
        )
    try:
        # Compiled code calls no hooks, by which layers are observed.
        copied: nn.Module = copy.deepcopy(getattr(model, "_orig_mod", model))
    except Exception as error:  # members of a module raise any exception
        raise TaskError(
            f"model must be a module that copy.deepcopy can copy, got {type(model).__name__}: "
            f"{shorten(one_line(error), 100)}. Take what fails out of `model`, such as the old "
            "torch.nn.utils.weight_norm."
        ) from error
    return logits_model(copied) if is_transformers(copied) else copied


def restore_module(model: nn.Module) -> nn.Module:
    """Undo :func:`copy_module` and :func:`name_head` in place, and return the module."""
    vars(model).pop("get_classifier", None)  # of name_head
    return as_transformers(model)


@torch.no_grad()
def name_head(model: nn.Module, head: str | None, images: Tensor) -> None:
    """Give a module timm's ``get_classifier``, by which the rest of the package knows the head.

    A head that the caller names is refused if the logits do not depend on its parameters, or only
    through another linear layer. Anything else may follow it: a scale, a choice of classes, a
    functional call with its weight. An automatic head is stricter: each of its outputs is a logit,
    up to a scale, a constant per image and an average over positions.

    Args:
        model: The module, which gets the method unless its own one names the head.
        head: Dotted name of its classifier. None is that of ``get_classifier``, or the last called
            linear layer that is the head.
        images: Images ``(n, channels, height, width)``, as the model takes them.

    Raises:
        TaskError: If there is no such layer, it has no parameters, or ``get_classifier`` fails.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> name_head(model, None, torch.randn(2, 1, 2, 2))
        >>> model.get_classifier()
        Linear(in_features=3, out_features=2, bias=True)
    """
    modules = {name: module for name, module in model.named_modules() if name}
    linear = {n: m for n, m in modules.items() if isinstance(m, nn.Linear | nn.Conv2d)}
    if head is None:
        given = _own_heads(model)
    elif head in modules and _has_parameters(modules[head]):
        given = [modules[head]]
    else:
        raise TaskError(
            f"head must name a layer of the model that has parameters, got {head!r}. "
            f"{suggest(str(head), list(linear))}"
        )
    with evaluation_mode(model):
        if given and all(_may_be_head(model, layer, given, linear, images) for layer in given):
            found = head
        else:
            found = _find_head(model, linear, images)
            if found is None or given:
                hint = (
                    f"Set `head` to {found!r}."
                    if found
                    else "Set `head`, or return the output of an nn.Linear or nn.Conv2d."
                )
                raise TaskError(
                    "head must name the layer whose output the model returns, got "
                    f"{'its get_classifier' if head is None and given else repr(head)}. {hint}"
                )
    if found is not None:
        # Not a closure: a copy of the model gets one of its own, and it can be pickled.
        model.get_classifier = partial(nn.Module.get_submodule, model, found)  # type: ignore[assignment]


def _own_heads(model: nn.Module) -> list[nn.Module]:
    """Return what the model's ``get_classifier`` returns; without the method, nothing.

    Raises:
        TaskError: If it fails, or returns anything but modules with parameters.
    """
    try:
        found = classifiers(model)
    except Exception as error:  # members of a module raise any exception
        raise TaskError(
            "model must have a get_classifier that returns its classifier, got "
            f"{type(error).__name__}: {shorten(one_line(error), 100)}. Name a layer by `head`."
        ) from error
    for module in found:
        if not isinstance(module, nn.Module) or not _has_parameters(module):
            raise TaskError(
                f"model must have a classifier, got {type(module).__name__} from its "
                "get_classifier. Create it with num_classes, or name a layer by `head`."
            )
    return found


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _may_be_head(
    model: nn.Module,
    layer: nn.Module,
    heads: Sequence[nn.Module],
    linear: Mapping[str, nn.Module],
    images: Tensor,
) -> bool:
    """Return whether the logits depend on a layer, but through no linear layer outside the heads.

    The graph of autograd shows it, whatever the weights: a new head may be zero.
    """
    inside = {id(module) for head in heads for module in head.modules()}
    own = {id(parameter) for parameter in layer.parameters()}
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]

    def cut(_layer: nn.Module, _args: object, output: object) -> Tensor | None:
        return output.detach() if isinstance(output, Tensor) else None

    hooks = [
        other.register_forward_hook(cut) for other in linear.values() if id(other) not in inside
    ]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(id(parameter) in own and parameter.is_floating_point())
        with torch.enable_grad():
            logits: Tensor = model(images)
        return logits.requires_grad
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _find_head(model: nn.Module, linear: Mapping[str, nn.Module], images: Tensor) -> str | None:
    """Return the name of the last called layer that is the head; None if none is."""
    called: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, layer in linear.items()
    ]
    try:
        n_classes = model(images).shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    images = images[torch.arange(N_NOISY) % len(images)]
    names = dict.fromkeys(reversed(called))
    return next((name for name in names if _is_head(model, linear[name], images, n_classes)), None)


def _is_head(model: nn.Module, layer: nn.Module, images: Tensor, n_classes: int) -> bool:
    """Return whether the logits follow the output of a linear layer, class by class.

    Noise replaces the output. Where the logits change like the noise, nothing else is between:
    the actual output would not tell it, as that of a new head may be zero.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.zeros(len(images), n_classes)

    def replace(_layer: nn.Module, _args: object, output: Tensor) -> Tensor | None:
        axis = 1 if isinstance(layer, nn.Conv2d) else output.ndim - 1
        if output.ndim < 2 or len(output) != len(images) or output.shape[axis] != n_classes:
            return None
        drawn = torch.randn(len(output), n_classes, generator=generator)
        noise.add_(drawn)
        shape = [len(output)] + [1] * (output.ndim - 1)
        shape[axis] = n_classes
        return drawn.to(output).view(shape).expand_as(output).clone()

    changes = []
    hook = layer.register_forward_hook(replace)
    try:
        for _ in range(2):
            noise.zero_()
            logits = model(images)
            changes.append((logits.double().cpu(), noise.double()))
    except Exception:  # of a model that the output of a layer steers
        return False
    finally:
        hook.remove()
    (first, drawn), (second, others) = changes
    a, b = (x - x.mean(1, keepdim=True) for x in (first - second, drawn - others))
    cosine = (a * b).sum() / (a.norm() * b.norm())  # NaN without any change
    return bool(cosine > 1 - (1e-3 if logits.element_size() == 2 else 1e-6))


@torch.no_grad()
def module_format(model: nn.Module, settings: BackboneSettings, images: Images) -> InputFormat:
    """Return the input format of a model for images of a caller.

    Models of timm and transformers have a preprocessing of their own for uint8 images. Other images
    keep their size, with pixels from 0 to 1. A timm model may have been created with another size
    or other channels than its ``pretrained_cfg`` says. Forward passes find those that it takes.

    Args:
        model: The model.
        settings: Its settings; their ``mean``, ``std`` and ``kwargs`` count.
        images: The images.

    Raises:
        TaskError: If a timm model takes neither its own size nor that of the images.
    """
    assert isinstance(images, ImageSet | TensorImages)
    channels, height, width = images.images.shape[1:]
    is_timm = hasattr(model, "pretrained_cfg")
    if isinstance(images, TensorImages) or not (is_timm or is_transformers(model)):
        return InputFormat((channels, height, width), (0.0,) * channels, (1.0,) * channels)
    if not is_timm:
        return input_format(model, settings)
    # Its mean may have as many values as the model's channels, not as its pretrained_cfg.
    bare = settings.model_copy(update={"mean": None, "std": None})
    own = input_format(model, bare).size
    stem = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), own[0])
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or own[1:]
    reasons = []
    for img_size in (size, (height, width)):
        for in_chans in dict.fromkeys((stem, own[0], channels)):
            changes = {"kwargs": {"in_chans": in_chans, "img_size": img_size, **settings.kwargs}}
            reason = _failure(model, input_format(model, bare.model_copy(update=changes)))
            if reason is None:
                return input_format(model, settings.model_copy(update=changes))
            reasons.append(reason)
    raise TaskError(
        f"model must take images of {own[1]} x {own[2]}, as its pretrained_cfg says, or "
        f"of {height} x {width}, as they are, got: {reasons[0]}. Resize the images to its size."
    )


def _failure(model: nn.Module, target: InputFormat) -> str | None:
    """Return why a model fails on images of a format; None if it takes them."""
    try:
        with evaluation_mode(model):
            model(torch.zeros(1, *target.size, device=_device(model)))
    except Exception as error:  # layers raise any exception on a wrong size
        return shorten(one_line(error), 100)
    return None


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def check_outputs(
    model: nn.Module, images: Images, name: str, target: InputFormat, n_classes: int
) -> Tensor:
    """Check that a model gives logits for images.

    Args:
        model: The model.
        images: The images, of which it sees two.
        name: Name of their argument, for messages.
        target: Input format of the model.
        n_classes: Number of classes.

    Returns:
        The images that it has seen, ``(2, channels, height, width)``.

    Raises:
        TaskError: If it fails or gives another output.
    """
    two = images.subset(torch.arange(min(2, len(images))))
    batch: Tensor = two.prepare(target, _device(model))[0][:]
    try:
        with evaluation_mode(model):
            logits = model(batch)
    except Exception as error:  # layers raise any exception on a wrong size
        channels, *_, last = batch.shape[1:]
        hint = f"Give the images in its size as `{name}`."
        if last <= 4 < channels:
            hint = f"Give images (n, channels, height, width) as `{name}`."
        if {p.dtype for p in model.parameters()} - {torch.float32}:
            hint = "Convert `model` by its method float: images are float32."
        reason = shorten(one_line(error), 100)
        raise TaskError(
            f"{name} must be images that the model takes, got a batch of shape "
            f"{tuple(batch.shape)}, for which it fails: {reason}. {hint}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < n_classes:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise TaskError(
            f"model must return logits of shape (n, {n_classes}) or with more classes, got {got}. "
            "Correct the labels or the classifier of `model`."
        )
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
        raise TaskError(
            "model must return logits, got probabilities: each row is positive and its sum is 1. "
            "Leave out the softmax of `model`."
        )
    return batch
