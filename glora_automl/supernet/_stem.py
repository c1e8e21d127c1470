"""What no adapter can change: the part of a model that images go through first."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["StemSplit", "split_stem"]


class StemSplit(NamedTuple):
    """A model in two parts.

    Attributes:
        stem: Gives features for images, such as a patch embedding.
        rest: Gives for the features what the model gives for the images. It shares the model's
            tensors.
    """

    stem: nn.Module
    rest: nn.Module


@torch.inference_mode()
def split_stem(
    model: nn.Module, image: Tensor, changing: set[int] | frozenset[int] = frozenset()
) -> StemSplit | None:
    """Split off the first module of a model, so that its output can be kept for fixed images.

    Args:
        model: In evaluation mode.
        image: One image ``(1, channels, height, width)``, to see what the model does with it.
        changing: Identities of the parameters that change.

    Returns:
        The parts; None where the images do not go through one module alone, or through one whose
        parameters change, or where the rest on the features is not the model.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(8, 4))
        >>> image = torch.randn(1, 3, 2, 2)
        >>> stem, rest = split_stem(model, image)
        >>> stem is model[0], torch.equal(rest(stem(image)), model(image))
        (True, True)
    """
    name = _first(model, image)
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
        # The model looks at the image besides. What it raises then is its own affair.
        return None
    return StemSplit(stem, rest) if same else None


def _first(model: nn.Module, image: Tensor) -> str | None:
    """The name of the largest module that is called with the image alone."""
    found: list[str] = []

    def hook_of(name: str):  # type: ignore[no-untyped-def]
        def note(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            if len(args) == 1 and args[0] is image and not kwargs:
                found.append(name)

        return note

    hooks = [
        module.register_forward_pre_hook(hook_of(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
