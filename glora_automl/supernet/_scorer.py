"""Scores of many architectures of a supernet on the same images."""

from __future__ import annotations

import textwrap
from typing import cast

import torch
from torch import Tensor, nn

from glora_automl.architecture import Architecture
from glora_automl.errors import TrainingError
from glora_automl.supernet._stem import split_stem
from glora_automl.supernet._supernet import Supernet
from glora_automl.training import (
    Converted,
    ImageBatches,
    Score,
    ScoreFunction,
    efficient_batch_size,
    evaluate,
)

__all__ = ["Scorer"]

MAX_FEATURE_BYTES = 2**30
"""Maximum memory of the stem's features of all images on the device."""


class Scorer:
    """Scorer of architectures, at little more than the cost of a backbone's forward pass.

    The first score prepares all others. It runs the stem that no adapter changes, and keeps its
    features if the images are in memory. It also chooses the batch size and compiles the model.
    Several threads may use one scorer; they score in turn.

    Args:
        supernet: The supernet; its weights may change between scores.
        images: Normalised images ``(n, channels, height, width)`` on its device.
        labels: Class indices ``(n,)`` on the same device.
        dtype: Type of weights and activations; None takes the supernet's. Logits are float32.
        compiled: Compile the merged model with :func:`torch.compile`, on CUDA with CUDA graphs.
            It takes about a minute at the first score.
        score_function: Function of labels and class probabilities, for the scores' ``custom``.

    Example:
        >>> import timm
        >>> from glora_automl.adapters import linear_shapes
        >>> from glora_automl.architecture import Choice
        >>> model = timm.create_model("test_vit", num_classes=3)
        >>> shapes = linear_shapes(model)
        >>> supernet = Supernet(model, {n: {"B": [Choice.parse("lora-2")]} for n in shapes})
        >>> scorer = Scorer(supernet, torch.randn(4, 3, 160, 160), torch.tensor([0, 1, 2, 0]))
        >>> scorer.score(Architecture.uniform(shapes, B="lora-2")).n_images
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
        score_function: ScoreFunction | None = None,
    ) -> None:
        self._supernet = supernet
        self._merged = supernet.merged_model(dtype)
        self._images = images if dtype is None else Converted(images, dtype)
        self._labels = labels
        self._compiled = compiled
        self._score_function = score_function
        self._model: nn.Module | None = None
        self._batch_size = 1

    def score(self, architecture: Architecture) -> Score:
        """Score an architecture with inherited weights.

        Args:
            architecture: The architecture; it becomes the active one.

        Raises:
            TrainingError: If the model cannot be compiled, or memory does not hold one image.
        """
        with self._supernet.lock:  # all architectures are written into the same tensors
            self._supernet.activate(architecture)
            self._merged.write()
            model = self._prepare() if self._model is None else self._model
            return evaluate(
                model,
                self._images,
                self._labels,
                self._batch_size,
                score_function=self._score_function,
            )

    @torch.inference_mode()
    def _prepare(self) -> nn.Module:
        """Choose the model and the inputs of all scores, after the stem where it splits off."""
        model = self._merged.model
        image = self._images[0:1]
        self._batch_size = efficient_batch_size(model, image)
        split = split_stem(model, image, self._merged.changing)
        if split is not None and self._fits(split.stem(image)):
            starts = range(0, len(self._images), self._batch_size)
            parts = (self._images[start : start + self._batch_size] for start in starts)
            self._images = torch.cat([split.stem(part) for part in parts])
            model = split.rest
        if self._compiled:
            model = _compile(model, self._images[0 : self._batch_size])
        self._model = model
        return model

    def _fits(self, features: Tensor) -> bool:
        """Return True if memory may hold the features of all images, given those of one."""
        slow = getattr(self._images, "slow", False)  # slow images exceed the memory
        return not slow and len(self._images) * features.nbytes <= MAX_FEATURE_BYTES


def _compile(model: nn.Module, batch: Tensor) -> nn.Module:
    """Compile a model for batches like ``batch``.

    Raises:
        TrainingError: If the compilation fails.
    """
    mode = "reduce-overhead" if batch.device.type == "cuda" else None  # CUDA graphs
    try:
        compiled = cast(nn.Module, torch.compile(model, mode=mode))
        compiled(batch)
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        reason = textwrap.shorten(lines[0], 120, placeholder="...").rstrip(".")
        raise TrainingError(
            "`search.compile` must be false where torch.compile fails, got true and "
            f"{type(error).__name__}: {reason}. Remove `search.compile`."
        ) from None
    return compiled
