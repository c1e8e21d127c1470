"""The stem: the first module of a model, whose features no adapter changes."""

from __future__ import annotations

import copy
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["StemSplit", "split_stem"]


class StemSplit(NamedTuple):
    """A model in two parts.

    Attributes:
        stem: Computes features of images, such as a patch embedding.
        rest: Computes the model's output from the features, with the model's own tensors.
    """

    stem: nn.Module
    rest: nn.Module


@torch.inference_mode()
def split_stem(
    model: nn.Module, image: Tensor, changing: set[int] | frozenset[int] = frozenset()
) -> StemSplit | None:
    """Split off the first module of a model, to compute its output once for fixed images.

    Args:
        model: In evaluation mode.
        image: One image ``(1, channels, height, width)``, for trial forward passes.
        changing: Identities of the parameters that change between scores.

    Returns:
        The parts. None if the images do not go through a single module, if its parameters change,
        or if the parts together do not give the model's output.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(8, 4))
        >>> image = torch.randn(1, 3, 2, 2)
        >>> stem, rest = split_stem(model, image)
        >>> stem is model[0], torch.equal(rest(stem(image)), model(image))
        (True, True)
    """
    name = _first_module(model, image)
    if name is None:
        return None
    stem = model.get_submodule(name)
    if any(id(parameter) in changing for parameter in stem.parameters()):
        return None
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    rest = copy.deepcopy(model, shared)
    parent, _, leaf = name.rpartition(".")
    setattr(rest.get_submodule(parent), leaf, nn.Identity())
    try:
        same = torch.equal(rest(stem(image)), model(image))
    except Exception:
        # A model that reads the image elsewhere, too, may raise anything on features.
        return None
    return StemSplit(stem, rest) if same else None


def _first_module(model: nn.Module, image: Tensor) -> str | None:
    """Return the name of the outermost module whose only input is the image."""
    names: list[str] = []

    def record(
        name: str, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        if len(args) == 1 and args[0] is image and not kwargs:
            names.append(name)

    hooks = [
        module.register_forward_pre_hook(partial(record, name), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return names[0] if names else None
