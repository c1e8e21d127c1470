"""The layers of a backbone as whoever writes a search space wants to see them."""

from __future__ import annotations

import collections
from typing import NamedTuple

import torch

from glora_automl.adapters import linear_shapes, unadaptable
from glora_automl.architecture import TENSORS
from glora_automl.backbones._backbone import (
    BackboneSettings,
    check_backbone,
    create_model,
    input_format,
)
from glora_automl.errors import LayerError
from glora_automl.search_space import group

__all__ = ["LayerGroup", "list_layers"]


class LayerGroup(NamedTuple):
    """Layers that are alike, their names but for indices included.

    Attributes:
        pattern: Matches their names in a search space; it may match those of other groups, too.
        layers: Number of layers.
        size: Rows and columns of the weight, of layers that can be adapted.
        tensors: Support tensors that can be chosen.
        reason: Why the layers cannot be adapted.
    """

    pattern: str
    layers: int
    size: tuple[int, int] | None
    tensors: str
    reason: str | None


def list_layers(settings: BackboneSettings) -> list[LayerGroup]:
    """The layers with weights of a backbone: those that can be adapted, then the others.

    Nothing is downloaded: weights do not matter.

    Raises:
        TaskError: If timm cannot create the model, or it is no classifier.

    Example:
        >>> for found in list_layers(BackboneSettings(model="test_vit"))[:2]:
        ...     print(found.pattern, found.layers, found.size, found.tensors)
        blocks.*.attn.qkv 6 (192, 64) ABCDE
        blocks.*.attn.proj 6 (64, 64) ABCDE
    """
    classes = 2
    bare = settings.model_copy(update={"pretrained": False})
    model = create_model(bare, classes, seed=0)
    target = input_format(model, settings)
    check_backbone(model, settings, target, classes)
    example = torch.zeros(2, *target.size)
    found: collections.Counter[tuple[str, tuple[int, int] | None, str, str | None]]
    found = collections.Counter()
    try:
        for name, shape in linear_shapes(model, example=example).items():
            tensors = "".join(tensor for tensor in TENSORS if shape.has(tensor))
            found[group(name, "kind"), shape[:2], tensors, None] += 1
    except LayerError:
        pass  # the reasons follow
    for name, reason in unadaptable(model, example).items():
        found[group(name, "kind"), None, "", reason] += 1
    return [LayerGroup(key[0], count, *key[1:]) for key, count in found.items()]
