"""Scores of many architectures of a supernet on the same images."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from glora_automl.architecture import Architecture
from glora_automl.errors import TrainingError
from glora_automl.supernet._stacked import StackedModel
from glora_automl.supernet._stem import split_stem
from glora_automl.supernet._supernet import Supernet
from glora_automl.training import (
    Converted,
    ImageBatches,
    MicroBatching,
    Score,
    ScoreFunction,
    batch_logits,
    batch_outputs,
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
    A batch size for which memory ran out once is not tried again. Several threads may use one
    scorer; they score in turn.

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
        self._dtype = dtype
        self._merged = supernet.merged_model(dtype)
        self._images = images if dtype is None else Converted(images, dtype)
        self._labels = labels
        self._compiled = compiled
        self._score_function = score_function
        self._model: nn.Module | None = None
        self._batch_size = 1
        self._micro_batching = MicroBatching("evaluation")
        self._example: Tensor | None = None
        self._stacked: dict[int, StackedModel | None] = {}

    def score(self, architecture: Architecture) -> Score:
        """Score an architecture with inherited weights.

        Args:
            architecture: The architecture; it becomes the active one.

        Raises:
            TrainingError: If the model cannot be compiled, or memory does not hold one image.
        """
        with self._supernet.lock:  # all architectures are written into the same tensors
            score = evaluate(
                self._write(architecture),
                self._images,
                self._labels,
                self._batch_size,
                micro_batching=self._micro_batching,
                score_function=self._score_function,
            )
        self._check(score)
        return score

    def score_together(self, architectures: Sequence[Architecture]) -> list[Score]:
        """Score several architectures in one pass, within rounding as :meth:`score` does.

        Their weights are stacked, so one pass has as many kernels as that of one architecture. That
        may pay where a device waits for the next kernel: small models on a GPU. On a CPU it does
        not, so a search scores one after the other (``docs/benchmarks/speed.md``). Models that mix
        the images of a batch, or read weights without a call of their layer, are scored one after
        the other, too.

        Args:
            architectures: The architectures; the last one becomes the active one.

        Raises:
            TrainingError: As :meth:`score`.
        """
        with self._supernet.lock:
            stacked = self._stack(architectures) if len(architectures) > 1 else None
            if stacked is None:
                return [self.score(architecture) for architecture in architectures]
            stacked.write(architectures)
            size = max(1, self._batch_size // len(architectures))
            with torch.inference_mode():
                outputs = batch_logits(
                    stacked, self._images, self._slices(size), self._micro_batching
                )
                logits = torch.cat([part for _, part in outputs])
            scores = [
                evaluate(
                    nn.Identity(),
                    own,
                    self._labels,
                    self._batch_size,
                    score_function=self._score_function,
                )
                for own in logits.unbind(1)
            ]
        for score in scores:
            self._check(score)
        return scores

    @torch.no_grad()  # tensors of the inference mode could not be written to again
    def _stack(self, architectures: Sequence[Architecture]) -> StackedModel | None:
        """Return the model of several architectures; None if it does not give their logits."""
        n = len(architectures)
        if n not in self._stacked:
            try:
                stacked = self._create_stacked(architectures)
            except RuntimeError:  # of a module that reads a weight as that of one layer
                stacked = None
            self._stacked = {n: stacked}  # of one size only, as its weights take memory
        return self._stacked[n]

    def _create_stacked(self, architectures: Sequence[Architecture]) -> StackedModel | None:
        self._write(architectures[0])  # splits off the stem, where that is possible
        stacked = StackedModel(self._supernet, len(architectures), self._dtype)
        if self._example is not None:
            images = self._example.repeat(len(architectures), 1, 1, 1)
            split = split_stem(stacked.model, images, stacked.changing)
            if split is None:
                return None
            stacked.model = split.rest
        x = self._images[0:2]
        expected = torch.stack([self._write(a)(x).clone() for a in architectures], 1).float()
        stacked.write(architectures)
        error = (stacked(x).float() - expected).abs().max()
        tolerance = 0.05 if self._dtype in (torch.bfloat16, torch.float16) else 1e-3
        return stacked if error <= tolerance * expected.abs().max() else None

    def _write(self, architecture: Architecture) -> nn.Module:
        """Return the plain model with an architecture's weights."""
        self._supernet.activate(architecture)
        self._merged.write()
        return self._prepare() if self._model is None else self._model

    def _check(self, score: Score) -> None:
        if self._dtype is torch.float16 and not math.isfinite(score.loss):
            raise TrainingError(
                "`training.precision` must be bf16 or fp32 for a backbone with activations beyond "
                f"65,504, the largest number of float16, got fp16 and a loss of {score.loss}. Set "
                "`training.precision = fp32`, and choose another `name`."
            )

    @torch.inference_mode()
    def _prepare(self) -> nn.Module:
        """Choose the model and the inputs of all scores, after the stem where it splits off."""
        model = self._merged.model
        image = self._images[0:1]
        self._batch_size = efficient_batch_size(model, image)
        split = split_stem(model, image, self._merged.changing)
        if split is not None and self._fits(split.stem(image)):
            features = self._features_of(split.stem)
            if features is not None:
                self._images, model, self._example = features, split.rest, image
        if self._compiled:
            model = _compile(model, self._images, self._slices(self._batch_size)[:1])
        self._model = model
        return model

    def _fits(self, features: Tensor) -> bool:
        """Return True if memory may hold the features of all images, given those of one."""
        slow = getattr(self._images, "slow", False)  # slow images exceed the memory
        return not slow and len(self._images) * features.nbytes <= MAX_FEATURE_BYTES

    def _features_of(self, stem: nn.Module) -> Tensor | None:
        """Return the stem's features of all images; None if memory does not hold them."""
        slices, micro_batching = self._slices(self._batch_size), MicroBatching("stem")
        try:
            parts = [x for _, x in batch_outputs(stem, self._images, slices, micro_batching)]
            return micro_batching.run(1, lambda _: torch.cat(parts))
        except TrainingError:
            return None

    def _slices(self, size: int) -> list[slice]:
        return [slice(start, start + size) for start in range(0, len(self._labels), size)]


class _Compiled(nn.Module):
    """A compiled model whose outputs stay valid: the next replay of a CUDA graph overwrites them.

    Args:
        model: The compiled model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return cast(Tensor, self.model(x)).clone()


def _compile(model: nn.Module, images: ImageBatches, slices: Sequence[slice]) -> nn.Module:
    """Compile a model for some batches of images.

    Raises:
        TrainingError: If the compilation fails.
    """
    mode = "reduce-overhead" if images.device.type == "cuda" else None  # CUDA graphs
    try:
        compiled = _Compiled(cast(nn.Module, torch.compile(model, mode=mode)))
        for _ in batch_outputs(compiled, images, slices):
            pass
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        reason = textwrap.shorten(lines[0], 120, placeholder="...").rstrip(".")
        raise TrainingError(
            "`search.compile` must be false where torch.compile fails, got true and "
            f"{type(error).__name__}: {reason}. Remove `search.compile`."
        ) from None
    return compiled
