"""The one training loop: of supernets, stand-alone adapters, fine-tuning and backbones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from glora_automl.adapters import evaluation_mode
from glora_automl.errors import DivergenceError, Stopped
from glora_automl.training._augmentation import create_transform
from glora_automl.training._batches import ImageBatches, weights_of
from glora_automl.training._epoch import EpochLoop
from glora_automl.training._layout import image_layout
from glora_automl.training._memory import MicroBatching
from glora_automl.training._modes import set_grad_checkpointing, set_training_mode
from glora_automl.training._optimizer import create_optimizer, create_scheduler, in_optimizer_order
from glora_automl.training._position import CheckpointManager, Position
from glora_automl.training._precision import half_dtype, resolve_precision
from glora_automl.training._process_group import ProcessGroup
from glora_automl.training._settings import TrainingSettings
from glora_automl.training._step import (
    TrainingStep,
    class_weights,
    create_loss,
    weighted_targets,
)

__all__ = ["PRETRAINING", "TrainingResult", "train"]

PRETRAINING = "pretraining"
"""Stage of the training of a backbone from scratch."""
COLLAPSED = 1.2
"""Loss of a collapsed training, as a multiple of its first ones and of that of a guess."""


class TrainingResult(NamedTuple):
    """Losses and cost of a training.

    Attributes:
        losses: Mean training loss per epoch, with the epochs before a resume.
        n_images: Images that went through the model, with those before a resume.
        seconds: Wall time, with that before a resume up to its checkpoint.
    """

    losses: list[float]
    n_images: int
    seconds: float


def train(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    images: ImageBatches,
    labels: Tensor,
    settings: TrainingSettings,
    *,
    seed: int,
    stage: str,
    before_step: Callable[[np.random.Generator], object] | None = None,
    checkpoint: Path | None = None,
    identity: Mapping[str, str] | None = None,
    on_epoch: Callable[[int, float], object] | None = None,
    on_checkpoint: Callable[[Path], object] | None = None,
    stop: Callable[[], bool] | None = None,
    process_group: ProcessGroup | None = None,
    check_collapse: bool = False,
) -> TrainingResult:
    """Train ``parameters`` of ``model`` by cross-entropy, from ``checkpoint`` on if it exists.

    Order and paths of an epoch depend on (seed, stage, epoch). Augmentation, drop path and dropout
    of a step depend on (seed, stage, epoch, step). So a resumed training ends with the same weights
    on a CPU. ``settings.precision`` is the type of the products. Frozen batch norms keep their
    statistics.

    Args:
        model: Gives logits for images; it is left in evaluation mode.
        parameters: Trained parameters by name.
        images: Normalised images ``(n, channels, height, width)`` on the model's device; see
            :class:`Weighted` for images that do not count equally.
        labels: Class indices ``(n,)`` on the same device.
        settings: Settings of the training.
        seed: Seed of all random numbers.
        stage: Name of the training; each name has its own random numbers.
        before_step: Activates a path with a generator, its only source of random numbers. A resume
            within an epoch repeats the calls of the earlier steps of that epoch.
        checkpoint: JSON file of the checkpoint; only the main process reads and writes it.
        identity: Other values that a checkpoint must match, such as digests of the images.
        on_epoch: Called after each epoch with the number of epochs and the mean loss, in each
            process. After a resume it is first called for the epochs before.
        on_checkpoint: Called with ``checkpoint`` after each write, in the main process.
        stop: Called before the first step and after each step. All processes stop if it returns
            True in one of them.
        process_group: Processes that train together; by default only this one.
        check_collapse: Whether a collapse ends the training. It has collapsed if the loss of an
            epoch after the warm-up is a fifth above those of the warm-up and of the epoch after it,
            and a fifth above that of equal probabilities for all classes.

    Raises:
        Stopped: If ``stop`` returned True; the checkpoint then holds the exact position.
        DivergenceError: If loss or weights are not finite, or if the training has collapsed.
        TrainingError: If memory does not hold one image, the model has no gradient checkpointing,
            or another process failed or runs another training.
        CheckpointError: If the checkpoint is altered or belongs to another training.
        StorageError: If a checkpoint cannot be written.
    """
    begin = time.monotonic()
    group = process_group or ProcessGroup(images.device)
    loop = _create_loop(
        model, parameters, images, labels, settings, seed, stage, before_step, stop, group
    )
    statistics = _prepare(model, parameters, settings, group)
    manager = CheckpointManager(
        checkpoint,
        _training_key(seed, stage, settings, identity),
        in_optimizer_order(parameters),
        statistics,
        loop.step.optimizer,
        group,
        on_checkpoint,
        loop.step.scaler,
    )
    position = manager.resume(loop.n_steps)
    begin -= position.seconds
    chance = math.log(int(labels.max()) + 1) if check_collapse else math.inf
    _run_epochs(loop, manager, position, settings, on_epoch, begin, chance)
    # Batch norm statistics are the main process's, whose shards are the largest. Training never
    # reads them, so one copy at the end equals a copy after each step.
    group.copy_from_main([*parameters.values(), *statistics.values()])
    model.eval()
    if settings.grad_checkpointing:
        set_grad_checkpointing(model, False)
    n_images = len(position.losses) * len(labels)
    return TrainingResult(position.losses, n_images, time.monotonic() - begin)


def _create_loop(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    images: ImageBatches,
    labels: Tensor,
    settings: TrainingSettings,
    seed: int,
    stage: str,
    before_step: Callable[[np.random.Generator], object] | None,
    stop: Callable[[], bool] | None,
    group: ProcessGroup,
) -> EpochLoop:
    """Create the epoch loop with its transform, loss function, optimiser and schedule."""
    weights = weights_of(images)
    n_classes = _n_classes(model, images, settings)
    precision = resolve_precision(settings.precision, labels.device)
    step = TrainingStep(
        model=model,
        parameters=list(parameters.values()),
        transform=create_transform(settings, n_classes),
        loss_function=create_loss(class_weights(labels, n_classes, settings.class_weight)),
        optimizer=create_optimizer(in_optimizer_order(parameters), settings),
        clip_grad=settings.clip_grad,
        process_group=group,
        micro_batching=MicroBatching(stage),
        layout=image_layout(model),
        half=half_dtype(precision),
        scaler=torch.amp.GradScaler(labels.device.type) if precision == "fp16" else None,
    )
    n_steps = math.ceil(len(labels) / settings.batch_size)
    return EpochLoop(
        images=images,
        labels=labels if weights is None else weighted_targets(labels, weights, n_classes),
        batch_size=settings.batch_size,
        n_steps=n_steps,
        seed=seed,
        stage=stage,
        step=step,
        scheduler=create_scheduler(step.optimizer, settings, n_steps),
        before_step=before_step,
        stop=stop or _never,
        process_group=group,
    )


@torch.no_grad()
def _n_classes(model: nn.Module, images: ImageBatches, settings: TrainingSettings) -> int:
    """Return the number of a model's classes, where transform or loss need it."""
    is_weighted = settings.class_weight != "none" or weights_of(images) is not None
    if not (settings.mixup or settings.cutmix or is_weighted):
        return 0
    with evaluation_mode(model):
        return int(model(images[0:1]).shape[1])


def _prepare(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    settings: TrainingSettings,
    group: ProcessGroup,
) -> dict[str, Tensor]:
    """Set the model's modes and copy its tensors from the main process.

    Returns:
        The batch norm statistics that training moves, by name.
    """
    statistics = set_training_mode(model, parameters)
    if settings.grad_checkpointing:
        set_grad_checkpointing(model, True)
    group.copy_from_main([*model.parameters(), *model.buffers(), *parameters.values()])
    return statistics


def _training_key(
    seed: int, stage: str, settings: TrainingSettings, identity: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return the values that a checkpoint must match to be resumed."""
    unrelated = {"checkpoint_every", "grad_checkpointing"}  # they do not change the weights
    return {
        "seed": seed,
        "stage": stage,
        "settings": settings.model_dump(mode="json", exclude=unrelated),
        "identity": dict(identity or {}),
    }


def _run_epochs(
    loop: EpochLoop,
    manager: CheckpointManager,
    position: Position,
    settings: TrainingSettings,
    on_epoch: Callable[[int, float], object] | None,
    begin: float,
    chance: float,
) -> None:
    """Run the remaining epochs, with checkpoints and reports between them."""
    group = loop.process_group

    def write() -> None:
        position.seconds = time.monotonic() - begin
        manager.write(position)

    def report() -> None:
        with group.propagate_errors():
            if position.losses and on_epoch is not None:
                on_epoch(len(position.losses), position.losses[-1])

    report()
    if len(position.losses) < settings.epochs and group.any(loop.stop):
        write()
        raise _stopped(loop, position)
    while len(position.losses) < settings.epochs:
        stopping = loop.run(position)
        loss = loop.mean_loss(position)
        with group.propagate_errors():
            position.seconds = time.monotonic() - begin
            _check_loss(loss, loop, position, settings, chance)
        if finished := position.step == loop.n_steps:
            position.end_epoch(loss)
        n_epochs = len(position.losses)
        due = n_epochs % settings.checkpoint_every == 0 or n_epochs == settings.epochs
        if (finished and due) or stopping:
            write()
        if finished:
            report()
        if stopping:
            raise _stopped(loop, position)


def _never() -> bool:
    return False


def _stopped(loop: EpochLoop, position: Position) -> Stopped:
    return Stopped(
        f"The training {loop.stage!r} stopped after {len(position.losses)} epochs and "
        f"{position.step} of {loop.n_steps} steps. Start it again to resume."
    )


def _check_loss(
    loss: float, loop: EpochLoop, position: Position, settings: TrainingSettings, chance: float
) -> None:
    n_epochs = len(position.losses)
    cost = (n_epochs + 1) * len(loop.labels), position.seconds
    # A recipe has settings of a pretraining, too.
    key = "backbone.pretraining" if loop.stage == PRETRAINING else "training"
    way_out = f"Lower `{key}.lr` (now {settings.lr}) or raise `{key}.warmup_epochs`."
    first = position.losses[: settings.warmup_epochs + 1]
    if position.step == loop.n_steps and len(first) > settings.warmup_epochs:
        # A slow training stays at its first losses, give or take their noise.
        highest = COLLAPSED * max(chance, *first)
        if loss > highest:
            raise DivergenceError(
                f"The loss of the training {loop.stage!r} must not rise above {highest:.2f}, got "
                f"{loss:.2f} in epoch {n_epochs + 1}. {way_out}",
                *cost,
            )
    norms = torch.stack([p.detach().float().norm() for p in loop.step.parameters])
    if not (math.isfinite(loss) and bool(torch.isfinite(norms).all())):
        raise DivergenceError(
            f"Loss and weights of the training {loop.stage!r} must stay finite, got loss {loss} "
            f"and {int((~torch.isfinite(norms)).sum())} non-finite tensors in epoch "
            f"{n_epochs + 1}. {way_out}",
            *cost,
        )
