"""Which layers of a model can be adapted, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from glora_automl.adapters._layer import GLoRALinear, refusal
from glora_automl.adapters._modes import evaluation_mode
from glora_automl.architecture import LayerShape
from glora_automl.errors import LayerError

__all__ = ["classifiers", "is_adaptable", "linear_shapes", "unadaptable"]

_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.RNNBase, nn.Bilinear)
"""What has a weight matrix that images go through."""

Predicate = Callable[[str, nn.Module], bool]


def classifiers(model: nn.Module) -> list[nn.Module]:
    """The classifier modules that timm's ``get_classifier`` names: two for distilled models.

    A model without ``get_classifier`` has none that could be told from its other layers.
    """
    get_classifier = getattr(model, "get_classifier", None)
    if get_classifier is None:
        return []
    found = get_classifier()
    return list(found) if isinstance(found, tuple | list | nn.ModuleList) else [found]


def is_adaptable(model: nn.Module) -> Predicate:
    """The predicate that selects layers: every linear one outside the classifier.

    Linear are ``nn.Linear`` and, at each pixel, an ``nn.Conv2d`` with kernel 1, stride 1 and one
    group.
    """
    heads = _heads(model)
    return lambda name, module: (
        refusal(module) is None and module is not model and id(module) not in heads
    )


def _heads(model: nn.Module) -> set[int]:
    return {id(module) for head in classifiers(model) for module in head.modules()}


def linear_shapes(
    model: nn.Module, predicate: Predicate | None = None, *, example: Tensor | None = None
) -> dict[str, LayerShape]:
    """Shapes of the layers that can be adapted, by dotted name, in the model's order.

    Args:
        model: Any module that is not adapted.
        predicate: Takes a name and a module; by default :func:`is_adaptable`.
        example: Images ``(batch, channels, height, width)``. When given, one forward pass tells
            which layers the model uses: others are left out, and where it reads a weight without
            calling the layer, ``takes_bias`` is false.

    Raises:
        LayerError: If no layer is left, or the predicate takes one that is not linear.

    Example:
        >>> linear_shapes(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)))
        ... # doctest: +NORMALIZE_WHITESPACE
        {'0': LayerShape(out_features=4, in_features=8, bias=True, takes_bias=True),
         '2': LayerShape(out_features=2, in_features=4, bias=False, takes_bias=True)}
    """
    take = predicate or is_adaptable(model)
    usage = None if example is None else _observe(model, example)
    shapes = {}
    for name, module in model.named_modules():
        if not take(name, module):
            continue
        if reason := refusal(module):
            raise LayerError(f"An adapted layer must be linear, {name!r} is not: {reason}.")
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
            f"The model must have a linear layer besides its classifier, {type(model).__name__} "
            f"has none ({shown or 'it has no layers with weights'})."
        )
    return shapes


def unadaptable(model: nn.Module, example: Tensor | None = None) -> dict[str, str]:
    """Layers with a weight matrix that cannot be adapted, by dotted name, each with the reason.

    The classifier is among them: it is always trained.

    Args:
        model: Any module that is not adapted.
        example: As for :func:`linear_shapes`.

    Example:
        >>> unadaptable(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Flatten()))
        {'0': 'a 3 x 3 convolution, which mixes pixels'}
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
            reason = "the model does not use it"
        if reason is not None:
            reasons[name] = reason
    return reasons


class _Usage(NamedTuple):
    """What a forward pass did with a model's layers and tensors, by identity."""

    called: set[int]
    read: set[int]

    def reads_weight(self, layer: nn.Module) -> bool:
        return id(layer) in self.called or id(layer.weight) in self.read

    def takes_bias(self, layer: nn.Module) -> bool:
        return id(layer) in self.called or id(layer.bias) in self.read


class _Reads(TorchFunctionMode):
    """Notes the tensors that are given to torch's functions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # To ask a weight for its shape or type is not to compute with it.
        if getattr(func, "__name__", "") != "__get__":
            leaves = _pytree.tree_leaves((args, kwargs))
            self.seen |= {id(leaf) for leaf in leaves if isinstance(leaf, nn.Parameter)}
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
    return _Usage(called, reads.seen)
