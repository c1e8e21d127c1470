"""The merged model as a graph: what ONNX and ``torch.export`` are given, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glora_automl.errors import ExportError
from glora_automl.export._record import Preprocessing, Record

__all__ = ["GraphInput", "check_pixels", "graph_input", "logits_of"]

_RESIZES = ("bilinear", "bicubic")
"""Interpolations that torch and Pillow have in common."""


class _FromPixels(nn.Module):
    """Pixels of any size to class probabilities: resize, normalise, model, softmax."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self.mode = preprocessing.interpolation
        self.size = preprocessing.size[1:]
        shape = (1, -1, 1, 1)
        # Buffers of constants, so that a graph has them as weights.
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean).reshape(shape))
        self.register_buffer("std", 255 * torch.tensor(preprocessing.std).reshape(shape))

    def forward(self, images: Tensor) -> Tensor:
        """Return the probabilities of uint8 images ``(batch, channels, height, width)``."""
        pixels = F.interpolate(
            images.float(), self.size, mode=self.mode, align_corners=False, antialias=True
        )
        # Pillow rounds, too.
        pixels = pixels.clamp(0, 255).round()
        logits: Tensor = self.model((pixels - self.mean) / self.std)
        return logits.softmax(1)


def check_pixels(preprocessing: Preprocessing) -> None:
    """Check that a graph can resize images as the study does.

    Raises:
        ExportError: If it crops or pads them, or uses another interpolation.
    """
    if preprocessing.crop_mode != "squash" or preprocessing.interpolation not in _RESIZES:
        raise ExportError(
            "`preprocess` must be left out for a study whose images are not squashed by "
            f"{' or '.join(_RESIZES)} interpolation, got {preprocessing.crop_mode} and "
            f"{preprocessing.interpolation}. Leave out `preprocess`."
        )
    if preprocessing.value_range is not None:
        raise ExportError(
            "`preprocess` must be left out for images of more than 8 bits, got a value_range. "
            "Leave out `preprocess`."
        )


class GraphInput(NamedTuple):
    """What an exporter of torch is given.

    Attributes:
        model: The module.
        example: Its images.
        dynamic: Axes of any size.
        output: Name of the output.
    """

    model: nn.Module
    example: Tensor
    dynamic: dict[int, Any]
    output: str


def graph_input(model: nn.Module, record: Record) -> GraphInput:
    """Return what an exporter of torch is given for a merged model on the CPU."""
    channels, height, width = record.preprocessing.size
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    # Two images, because torch specialises a batch size of 1 to a constant.
    if record.input == "normalized":
        return GraphInput(model, torch.zeros(2, channels, height, width), dynamic, "logits")
    # For the same reason, another size than the model's.
    example = torch.zeros(2, channels, height + 7, width + 13, dtype=torch.uint8)
    dynamic |= {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    whole = _FromPixels(model, record.preprocessing).eval()
    return GraphInput(whole, example, dynamic, "probabilities")


def logits_of(graph: Callable[[Tensor], Tensor], record: Record) -> Callable[[Tensor], Tensor]:
    """Return a graph as a function from normalised images to logits, up to a constant per image.

    Args:
        graph: The graph, from its own input to its own output.
        record: Its record.
    """
    if record.input == "normalized":
        return graph
    shape = (1, -1, 1, 1)
    mean = 255 * torch.tensor(record.preprocessing.mean).reshape(shape)
    std = 255 * torch.tensor(record.preprocessing.std).reshape(shape)

    def logits(images: Tensor) -> Tensor:
        pixels = (images.cpu() * std + mean).round().clamp(0, 255).to(torch.uint8)
        return graph(pixels).clamp_min(torch.finfo(torch.float32).tiny).log()

    return logits
