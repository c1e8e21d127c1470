"""The adaptable layers of a model, and why the other layers are not adaptable."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from glora_automl.adapters._layer import GLoRALinear, refusal
from glora_automl.adapters._modes import evaluation_mode
from glora_automl.architecture import LayerShape
from glora_automl.errors import LayerError

__all__ = ["classifiers", "linear_shapes", "unadaptable"]

_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.RNNBase, nn.Bilinear)
"""Layers with a weight matrix."""


def classifiers(model: nn.Module) -> list[nn.Module]:
    """Return the classifiers by timm's ``get_classifier``: two in distilled models.

    A model without ``get_classifier`` has none.
    """
    get_classifier = getattr(model, "get_classifier", None)
    if get_classifier is None:
        return []
    found = get_classifier()
    return list(found) if isinstance(found, tuple | list | nn.ModuleList) else [found]


def _heads(model: nn.Module) -> set[int]:
    return {id(module) for head in classifiers(model) for module in head.modules()}


def linear_shapes(model: nn.Module, *, example: Tensor | None = None) -> dict[str, LayerShape]:
    """Return the shapes of the adaptable layers by dotted name, in the model's order.

    These are the linear layers outside the classifier: ``nn.Linear``, or ``nn.Conv2d`` with kernel
    1, stride 1 and one group, which is linear at each pixel.

    Args:
        model: A module without adapted layers.
        example: Images ``(batch, channels, height, width)`` for a forward pass that finds unused
            layers, which are left out. ``takes_bias`` is false where the model reads a weight
            without calling the layer. None skips the pass.

    Raises:
        LayerError: If no layer is adaptable.

    Example:
        >>> linear_shapes(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)))
        ... # doctest: +NORMALIZE_WHITESPACE
        {'0': LayerShape(out_features=4, in_features=8, bias=True, takes_bias=True),
         '2': LayerShape(out_features=2, in_features=4, bias=False, takes_bias=True)}
    """
    heads = _heads(model)
    usage = None if example is None else _observe(model, example)
    shapes = {}
    for name, module in model.named_modules():
        if refusal(module) is not None or module is model or id(module) in heads:
            continue
        assert isinstance(module, nn.Linear | nn.Conv2d)
        if usage is None:
            shapes[name] = GLoRALinear.shape_of(module)
        elif usage.reads_weight(module):
            takes_bias = usage.takes_bias(module)
            shapes[name] = GLoRALinear.shape_of(module)._replace(takes_bias=takes_bias)
    if not shapes:
        reasons = unadaptable(model, example)
        shown = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        raise LayerError(
            "The model must have a linear layer besides its classifier, got "
            f"{type(model).__name__} ({shown or 'no layers with weights'})."
        )
    return shapes


def unadaptable(model: nn.Module, example: Tensor | None = None) -> dict[str, str]:
    """Return why layers with a weight matrix are not adaptable, by dotted name.

    They include the classifier, which is always trained.

    Args:
        model: A module without adapted layers.
        example: As for :func:`linear_shapes`.

    Example:
        >>> unadaptable(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Flatten()))
        {'0': 'a convolution over 3 x 3 pixels'}
    """
    heads = _heads(model)
    usage = None if example is None else _observe(model, example)
    reasons = {}
    for name, module in model.named_modules():
        if not isinstance(module, _WEIGHTED):
            continue
        reason = refusal(module)
        if id(module) in heads:
            reason = "the classifier, which is always trained"
        elif module is model:
            reason = "the model itself"
        elif reason is None and usage is not None and not usage.reads_weight(module):
            reason = "unused by the model"
        if reason is not None:
            reasons[name] = reason
    return reasons


class _Usage(NamedTuple):
    """Identities of the layers that a forward pass called and of the parameters that it read."""

    called: set[int]
    read: set[int]

    def reads_weight(self, layer: nn.Module) -> bool:
        return id(layer) in self.called or id(layer.weight) in self.read

    def takes_bias(self, layer: nn.Module) -> bool:
        return id(layer) in self.called or id(layer.bias) in self.read


class _Reads(TorchFunctionMode):
    """Records the parameters that reach torch's functions."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # A look-up of a weight's shape or type is not a computation.
        if getattr(func, "__name__", "") != "__get__":
            leaves = _pytree.tree_leaves((args, kwargs))
            self.read |= {id(leaf) for leaf in leaves if isinstance(leaf, nn.Parameter)}
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _observe(model: nn.Module, example: Tensor) -> _Usage:
    called: set[int] = set()
    hooks = [
        module.register_forward_hook(lambda module, *_: called.add(id(module)))
        for module in model.modules()
    ]
    try:
        with evaluation_mode(model), _Reads() as reads:
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return _Usage(called, reads.read)
