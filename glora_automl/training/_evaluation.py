"""Evaluation of a model on images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional as F

from glora_automl._messages import short
from glora_automl.adapters import evaluation_mode
from glora_automl.errors import RecipeError
from glora_automl.training._batches import ImageBatches, is_slow, reads
from glora_automl.training._layout import image_layout, in_layout
from glora_automl.training._memory import MicroBatching
from glora_automl.training._score import Score, ScoreFunction

__all__ = [
    "batch_logits",
    "batch_outputs",
    "efficient_batch_size",
    "evaluate",
    "temperature_scaled_loss",
]

CUDA_BATCH = 512
"""Images per forward pass on a GPU; enough to keep any GPU busy."""

CACHE_ELEMENTS = 2**20
"""Maximum elements of a batch's largest activation on a CPU. With more of them (4 MB in float32)
layers read their inputs from memory instead of the cache."""

MIN_CPU_BATCH = 8
"""Minimum images per forward pass on a CPU; smaller batches read the weights too often."""


def temperature_scaled_loss(logits: Tensor, labels: Tensor) -> float:
    """Return the mean cross-entropy at the temperature that minimises it, in nats.

    Long training makes adapters overconfident to different degrees, so their plain losses cannot
    be compared. Temperature scaling removes that and changes no prediction (Guo et al., On
    calibration of modern neural networks, 2017). The loss also orders adapters of equal accuracy.

    Args:
        logits: ``(n, classes)``.
        labels: Class indices ``(n,)``.

    Example:
        >>> logits, labels = torch.eye(3), torch.tensor([0, 1, 0])
        >>> F.cross_entropy(logits, labels).item(), temperature_scaled_loss(logits, labels)
        ... # doctest: +ELLIPSIS
        (0.884..., 0.867...)
        >>> temperature_scaled_loss(9 * logits, labels)  # doctest: +ELLIPSIS
        0.867...
    """
    # On the CPU, which has float64 everywhere and need not be waited for in each iteration.
    logits, labels = logits.cpu().double(), labels.cpu()

    def loss(exponent: float) -> float:
        return F.cross_entropy(logits * math.exp(exponent), labels).item()

    # The loss is convex in the inverse temperature, so its logarithm has one minimum, too.
    result = minimize_scalar(
        loss, bounds=(-_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE), method="bounded"
    )
    return min(float(result.fun), loss(0.0))


_MAX_LOG_TEMPERATURE = math.log(1000)
"""Temperatures range from 1/1000 to 1000."""


@torch.inference_mode()
def efficient_batch_size(model: nn.Module, image: Tensor) -> int:
    """Return the batch size beyond which throughput does not grow.

    On a CPU it is the number of images whose largest activation fits into the cache, measured by
    one forward pass. It depends on the model alone, so the same seed gives the same scores.

    Args:
        model: In evaluation mode.
        image: One image ``(1, channels, height, width)``.

    Example:
        >>> efficient_batch_size(nn.Conv2d(3, 64, 1), torch.zeros(1, 3, 128, 128))
        8
    """
    if image.device.type != "cpu":
        return CUDA_BATCH
    largest = image.numel()

    def record(module: nn.Module, args: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel())

    hooks = [module.register_forward_hook(record) for module in model.modules()]
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return min(CUDA_BATCH, max(MIN_CPU_BATCH, CACHE_ELEMENTS // largest))


def batch_outputs(
    model: nn.Module,
    images: ImageBatches,
    slices: Iterable[slice],
    micro_batching: MicroBatching | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the model's output of each batch of images.

    A batch that memory does not hold is read and goes through the model in micro-batches.

    Args:
        model: In evaluation mode.
        images: Normalised images ``(n, channels, height, width)`` on the model's device.
        slices: Slice of each batch.
        micro_batching: Sizes of the forward passes. One that is kept remembers what fitted.
    """
    slices = list(slices)
    micro_batching = micro_batching or MicroBatching("evaluation")
    layout = image_layout(model)
    for batch, read in zip(slices, reads(images, slices), strict=True):
        n_images = min(batch.stop, len(images)) - batch.start
        parts = _parts_of(read()) if is_slow(images) else _parts_at(images, batch.start)
        yield batch, micro_batching.run(n_images, partial(_forward, model, parts, layout, n_images))


def batch_logits(
    model: nn.Module,
    images: ImageBatches,
    slices: Iterable[slice],
    micro_batching: MicroBatching | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the :func:`batch_outputs` of a classifier, logits ``(batch, classes)``, in float32."""
    for batch, logits in batch_outputs(model, images, slices, micro_batching):
        yield batch, logits.float()


Parts = Callable[[int, int], Tensor]
"""Returns the images of a batch from one place in it to another."""


def _parts_of(batch: Tensor) -> Parts:
    return lambda first, last: batch[first:last]


def _parts_at(images: ImageBatches, start: int) -> Parts:
    return lambda first, last: images[start + first : start + last]


def _forward(
    model: nn.Module,
    parts: Parts,
    layout: torch.memory_format,
    n_images: int,
    micro_batch_size: int,
) -> Tensor:
    starts = range(0, n_images, micro_batch_size)
    ends = (min(start + micro_batch_size, n_images) for start in starts)
    places = zip(starts, ends, strict=True)
    outputs = [model(in_layout(parts(*place), layout)) for place in places]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _number(value: object) -> float:
    """Return the value of a score function.

    Raises:
        RecipeError: If it is no number.
    """
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # RuntimeError of a tensor of several numbers
        raise RecipeError(
            f"score must return one number, got {short(value)}. Correct the function `score`."
        ) from None


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: ImageBatches,
    labels: Tensor,
    batch_size: int | None = None,
    *,
    micro_batching: MicroBatching | None = None,
    among: Tensor | None = None,
    scale_temperature: bool = False,
    score_function: ScoreFunction | None = None,
    on_batch: Callable[[Tensor], object] | None = None,
) -> Score:
    """Evaluate a model in evaluation mode; each module's mode is restored afterwards.

    Args:
        model: Gives logits ``(batch, classes)`` for images.
        images: Normalised images ``(n, channels, height, width)`` on the model's device.
        labels: Class indices ``(n,)`` on the same device.
        batch_size: Images per forward pass; None takes :func:`efficient_batch_size`. It is halved,
            with a warning, as long as memory runs out.
        micro_batching: Remembers the size that fitted, for further evaluations.
        among: Classes ``(m,)`` that may be predicted; the logits of the others are ignored. None
            allows all classes.
        scale_temperature: Compute ``scaled_loss``, for which all logits are stored.
        score_function: Compute ``custom`` from labels ``(n,)`` and class probabilities
            ``(n, classes)``.
        on_batch: Called with the logits of each batch, in order.

    Raises:
        RecipeError: If the score function returns no number.
        TrainingError: If memory does not hold one image.

    Example:
        >>> evaluate(nn.Flatten(), torch.eye(3)[:, :, None, None], torch.tensor([0, 1, 0]))
        ... # doctest: +ELLIPSIS
        Score(accuracy=0.666..., loss=0.884..., n_images=3, scaled_loss=None, custom=None)
    """
    # Sums stay on the device, so the host waits only at the end.
    n_correct = torch.zeros((), dtype=torch.int64, device=labels.device)
    losses: list[Tensor] = []
    all_logits: list[Tensor] = []
    with evaluation_mode(model):
        size = batch_size or efficient_batch_size(model, images[0:1])
        slices = [slice(start, start + size) for start in range(0, len(labels), size)]
        for batch, logits in batch_logits(model, images, slices, micro_batching):
            y = labels[batch]
            if among is not None:
                others = torch.ones(logits.shape[1], dtype=torch.bool, device=labels.device)
                others[among] = False
                logits = logits.masked_fill(others, -torch.inf)
            if scale_temperature or score_function is not None:
                all_logits.append(logits)
            if on_batch is not None:
                on_batch(logits)
            n_correct += (logits.argmax(1) == y).sum()
            losses.append(F.cross_entropy(logits, y, reduction="sum"))
    count = len(labels)
    loss = sum(torch.stack(losses).tolist()) / count  # Apple's GPUs have no float64
    scaled_loss, custom = None, None
    if scale_temperature:
        scaled_loss = temperature_scaled_loss(torch.cat(all_logits), labels)
    if score_function is not None:
        # In float64, in which probabilities near 1 still differ.
        probabilities = torch.cat(all_logits).cpu().double().softmax(1)
        custom = _number(score_function(labels.cpu().numpy(), probabilities.numpy()))
    return Score(int(n_correct.item()) / count, loss, count, scaled_loss, custom)
