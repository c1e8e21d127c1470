"""Scoring many architectures of a supernet on the same images."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from glora_automl.architecture import Architecture
from glora_automl.errors import TrainingError
from glora_automl.supernet._stem import split_stem
from glora_automl.supernet._supernet import Supernet
from glora_automl.training import Converted, ImageBatches, Score, evaluate, paying_batch_size

__all__ = ["Scorer"]

KEPT = 2**30
"""Bytes that the features of all images may take on the device."""


class Scorer:
    """Scores architectures, each for little more than a forward pass of the backbone.

    What is the same for all of them is done once: a stem that no adapter can change is applied to
    the images and its features kept, if they are in memory; the batch size is chosen; the plain
    model is made, and compiled if that is wanted.

    Args:
        supernet: Its weights may change between scores.
        images: Normalised images ``(n, channels, height, width)`` on its device.
        labels: Class indices ``(n,)`` on the same device.
        dtype: Type of weights and activations; None is the supernet's. Logits are compared in
            float32.
        compiled: Whether the plain model goes through :func:`torch.compile`, which takes a minute
            or so at the first score; on CUDA with CUDA graphs.

    Example:
        >>> import timm
        >>> from glora_automl.adapters import linear_shapes
        >>> from glora_automl.architecture import Choice
        >>> model = timm.create_model("test_vit", num_classes=3)
        >>> shapes = linear_shapes(model)
        >>> supernet = Supernet(model, {n: {"B": [Choice.parse("lora-2")]} for n in shapes})
        >>> scorer = Scorer(supernet, torch.randn(4, 3, 160, 160), torch.tensor([0, 1, 2, 0]))
        >>> scorer.score(Architecture.uniform(shapes, B="lora-2")).images
        4
    """

    def __init__(
        self,
        supernet: Supernet,
        images: ImageBatches,
        labels: Tensor,
        *,
        dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        self._supernet = supernet
        self._merged = supernet.merged_model(dtype)
        self._images = images if dtype is None else Converted(images, dtype)
        self._labels = labels
        self._compiled = compiled
        self._model: nn.Module | None = None
        self._batch_size = 1

    def score(self, architecture: Architecture) -> Score:
        """Score an architecture with the supernet's weights.

        Args:
            architecture: It becomes the active one.

        Raises:
            TrainingError: If the model cannot be compiled, or memory does not hold one image.
        """
        self._supernet.activate(architecture)
        self._merged.write()
        model = self._prepare() if self._model is None else self._model
        return evaluate(model, self._images, self._labels, self._batch_size)

    @torch.inference_mode()
    def _prepare(self) -> nn.Module:
        """What scores the images from now on: the plain model, or what comes after its stem."""
        model = self._merged.model
        image = self._images[0:1]
        self._batch_size = paying_batch_size(model, image)
        split = split_stem(model, image, self._merged.changing)
        if split is not None and self._fits(split.stem(image)):
            starts = range(0, len(self._images), self._batch_size)
            parts = [self._images[start : start + self._batch_size] for start in starts]
            self._images = torch.cat([split.stem(part) for part in parts])
            model = split.rest
        if self._compiled:
            model = _compile(model, self._images[0 : self._batch_size])
        self._model = model
        return model

    def _fits(self, features: Tensor) -> bool:
        """Whether the features of all images, of which this is one, may be kept."""
        slow = getattr(self._images, "slow", False)  # there are too many of them
        return not slow and len(self._images) * features.nbytes <= KEPT


def _compile(model: nn.Module, batch: Tensor) -> nn.Module:
    """A model that is compiled for batches like this one.

    Raises:
        TrainingError: If that fails.
    """
    mode = "reduce-overhead" if batch.device.type == "cuda" else None  # CUDA graphs
    try:
        compiled = cast(nn.Module, torch.compile(model, mode=mode))
        compiled(batch)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise TrainingError(
            "search.compile needs a backbone that torch can compile, and a compiler on this "
            f"machine; here torch.compile failed: {type(error).__name__}: "
            f"{reason[0] if reason else 'no reason given'}; leave it out."
        ) from None
    return compiled
