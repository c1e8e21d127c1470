"""Layers of a backbone, grouped for writing a search space."""

from __future__ import annotations

import collections
from typing import NamedTuple

import torch

from glora_automl.adapters import linear_shapes, unadaptable
from glora_automl.architecture import TENSORS
from glora_automl.backbones._model import check_backbone, create_model, input_format
from glora_automl.backbones._settings import BackboneSettings
from glora_automl.errors import LayerError
from glora_automl.search_space import group

__all__ = ["LayerGroup", "list_layers"]


class LayerGroup(NamedTuple):
    """Layers that agree in size, support tensors and name except for indices.

    Attributes:
        pattern: Pattern of the names for a search space; it may match other groups, too.
        n_layers: Number of layers.
        size: Rows and columns of the weight; None for layers that cannot be adapted.
        tensors: Support tensors of the layers.
        reason: Reason that the layers cannot be adapted.
    """

    pattern: str
    n_layers: int
    size: tuple[int, int] | None
    tensors: str
    reason: str | None


def list_layers(settings: BackboneSettings) -> list[LayerGroup]:
    """Return the layers with weights: first those that can be adapted, then the others.

    Nothing is downloaded, as the layers do not depend on the weights.

    Raises:
        TaskError: If timm cannot create the model, or the model has no classifier.

    Example:
        >>> for found in list_layers(BackboneSettings(model="test_vit"))[:2]:
        ...     print(found.pattern, found.n_layers, found.size, found.tensors)
        blocks.*.attn.qkv 6 (192, 64) ABCDE
        blocks.*.attn.proj 6 (64, 64) ABCDE
    """
    n_classes = 2
    bare = settings.model_copy(update={"pretrained": False})
    model = create_model(bare, n_classes, seed=0)
    target = input_format(model, settings)
    check_backbone(model, settings, target, n_classes)
    example = torch.zeros(2, *target.size)
    counts: collections.Counter[tuple[str, tuple[int, int] | None, str, str | None]]
    counts = collections.Counter()
    try:
        for name, shape in linear_shapes(model, example=example).items():
            tensors = "".join(tensor for tensor in TENSORS if shape.has(tensor))
            counts[group(name, "kind"), shape[:2], tensors, None] += 1
    except LayerError:
        pass  # no layer can be adapted; the reasons follow
    for name, reason in unadaptable(model, example).items():
        counts[group(name, "kind"), None, "", reason] += 1
    return [LayerGroup(key[0], count, *key[1:]) for key, count in counts.items()]
