"""Candidates for the backbone, of which a study ranks the best first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator

from glora_automl._declarations import Bool
from glora_automl.backbones._source import BackboneSource

__all__ = ["LISTS", "CandidateBackbone", "expand_lists", "in_folder"]

_DINOV2_SIZE = {"img_size": 224}  # 256 tokens instead of 1,369 at its own size of 518

LISTS: dict[str, tuple[str | dict[str, Any], ...]] = {
    "auto-small": (  # up to 12 million parameters
        "resnet14t.c3_in1k",  # ResNet-18 has no 1 x 1 convolutions to adapt
        "efficientnet_b0.ra4_e3600_r224_in1k",
        "convnext_pico.d1_in1k",
        "vit_tiny_patch16_224.augreg_in21k",
    ),
    "auto-medium": (  # 20 to 30 million
        "resnet50.a1_in1k",
        "tf_efficientnetv2_s.in21k",
        "convnext_tiny.in12k",
        "vit_small_patch16_224.augreg_in21k",
        {"model": "vit_small_patch14_dinov2.lvd142m", "kwargs": _DINOV2_SIZE},
    ),
    "auto-large": (  # 50 to 90 million
        "tf_efficientnetv2_m.in21k",
        "convnext_base.fb_in22k",
        "vit_base_patch16_224.augreg_in21k",
        "vit_base_patch16_clip_224.laion2b",
        {"model": "vit_base_patch14_dinov2.lvd142m", "kwargs": _DINOV2_SIZE},
    ),
}
"""Candidates by size: several families and pretrainings, all under Apache-2.0."""

LISTS["auto"] = LISTS["auto-medium"]


class CandidateBackbone(BackboneSource):
    """A model that may become the backbone of a study.

    A text is a model with its pretrained weights, or ``name=path`` with a local checkpoint.

    Example:
        >>> CandidateBackbone.model_validate("resnet18").pretrained
        True
        >>> CandidateBackbone.model_validate("resnet18=weights/mine.safetensors").label
        'resnet18=mine.safetensors'
    """

    pretrained: Bool = True

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, str):
            name, equals, path = value.partition("=")
            value = {"model": name.strip()} | ({"checkpoint": path.strip()} if equals else {})
        if isinstance(value, Mapping) and value.get("checkpoint") is not None:
            value = {"pretrained": False, **value}
        return value

    @property
    def label(self) -> str:
        """Name of the model, and of the checkpoint file if it has one, without their folders."""
        file = "" if self.checkpoint is None else f"={Path(self.checkpoint).name}"
        return f"{self.public_name}{file}"


def expand_lists(entries: Iterable[Any]) -> list[Any]:
    """Return candidates with the entries of :data:`LISTS` in place of their names.

    Example:
        >>> expand_lists(["auto-small", "resnet34"])[-2:]
        ['vit_tiny_patch16_224.augreg_in21k', 'resnet34']
    """
    found: list[Any] = []
    for entry in entries:
        found.extend(LISTS.get(entry, [entry]) if isinstance(entry, str) else [entry])
    return found


def in_folder(entry: Any, folder: Path) -> Any:
    """Return a candidate whose checkpoint is relative to a folder.

    Example:
        >>> in_folder("resnet18=mine.safetensors", Path("there"))
        'resnet18=there/mine.safetensors'
    """
    if isinstance(entry, str) and "=" in entry:
        name, _, path = entry.partition("=")
        return f"{name}={folder / os.path.expanduser(path.strip())}"
    if isinstance(entry, Mapping) and isinstance(file := entry.get("checkpoint"), str):
        return {**entry, "checkpoint": str(folder / os.path.expanduser(file))}
    return entry
