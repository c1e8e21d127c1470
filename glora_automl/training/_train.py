"""The one training loop: supernet, fine-tuning, controls and backbone go through it."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from glora_automl._declarations import Bool, Declaration, Float, Int
from glora_automl.adapters import is_scaling
from glora_automl.errors import Stopped, TrainingError
from glora_automl.training._augmentation import augmented
from glora_automl.training._batches import ImageBatches, batches
from glora_automl.training._memory import Pieces
from glora_automl.training._position import Keeper, Position
from glora_automl.training._process_group import ProcessGroup

__all__ = ["TrainingResult", "TrainingSettings", "train"]


class TrainingSettings(Declaration):
    """AdamW with a cosine schedule.

    Attributes:
        epochs: Passes over the images; may be 0.
        batch_size: Images a step; the last batch of an epoch may be smaller.
        lr: Peak learning rate.
        scaling_lr_ratio: How many times that rate the vectors and scalars have that are factors of
            frozen weights (``A`` and ``D``), as LoRA+ (arXiv 2402.12354) has it for one of LoRA's.
        weight_decay: AdamW's decoupled weight decay.
        warmup_epochs: Epochs of linear warm-up, of the ``epochs``.
        clip_grad: Largest norm of the gradient; 0 turns clipping off.
        checkpoint_every: Epochs between checkpoints.
        shift: The most by which images are moved at random in each direction, as a share of their
            height and width; 0 trains on them as they are.
        hflip: Whether images are mirrored from left to right at random.
        grad_checkpointing: Whether activations are computed again in the backward pass. Takes a
            third more work and a fraction of the memory, for the same weights. Needs timm's
            ``set_grad_checkpointing``.
    """

    epochs: Int = Field(ge=0)
    batch_size: Int = Field(default=64, ge=1)
    lr: Float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    scaling_lr_ratio: Float = Field(default=1.0, gt=0, allow_inf_nan=False)
    weight_decay: Float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    warmup_epochs: Int = Field(default=0, ge=0)
    clip_grad: Float = Field(default=1.0, ge=0, allow_inf_nan=False)
    checkpoint_every: Int = Field(default=10, ge=1)
    shift: Float = Field(default=0.0, ge=0, le=0.5)
    hflip: Bool = False
    grad_checkpointing: Bool = False


class SupernetSettings(TrainingSettings):
    """How the supernet is trained.

    Attributes:
        paths: How each step's architecture is drawn: ``uniform`` over choices as in the paper, or
            under the ``budget``, like the search's first generation: one half are the hand-picked
            adapters that it begins with, the others random ones near the budget.
    """

    paths: Literal["uniform", "budget"] = "budget"


class TrainingResult(NamedTuple):
    """What a training did.

    Attributes:
        losses: Mean training loss of each epoch, those before a resume included.
        n_images: Images seen, those before a resume included.
        seconds: Wall time, that before a resume included up to the checkpoint.
    """

    losses: list[float]
    n_images: int
    seconds: float


def stage_rng(seed: int, stage: str, *position: int) -> np.random.Generator:
    """A generator that depends on seed, stage and position alone.

    Randomness is addressed, not carried along: an interrupted training needs no generator state
    but the epoch to go on exactly as it would have.
    """
    return np.random.default_rng([seed, zlib.crc32(stage.encode()), *position])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the block; then they are as before."""
    devices = list(range(torch.cuda.device_count()))  # manual_seed reaches all of them
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


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
) -> TrainingResult:
    """Train ``parameters`` of ``model`` by cross-entropy; go on from ``checkpoint`` if it exists.

    Order of the images and paths of an epoch come from (seed, stage, epoch), shifts, drop-path and
    dropout of a step from (seed, stage, epoch, step), so on the CPU a training that was killed or
    stopped and started again ends with the same weights. Batch norms without a trained parameter
    keep their statistics. On CUDA the forward pass runs in bfloat16.

    With several ``process_group`` each draws a path of its own for its share of the batch, and the
    gradient is that of the mean loss over the whole batch: settings mean the same on any number of
    GPUs. Batch norms see their share alone. All ranks end with the same weights. A checkpoint may
    be gone on from with another number of ranks, on other paths then.

    Args:
        model: Gives logits for images; it is left in evaluation mode.
        parameters: What is trained, by name.
        images: Normalised images ``(n, channels, height, width)`` on the model's device.
        labels: Class indices ``(n,)`` on the same device.
        settings: Length, learning rate and the like.
        seed: Seed of all randomness.
        stage: Name of the training; trainings with other names draw other numbers.
        before_step: Called before each step with the path generator, to activate a path. It draws
            from nothing else: where an epoch is gone on with, it is called for the steps before,
            too, to bring the generator to where it was.
        checkpoint: JSON file of the checkpoint; rank 0 alone reads and writes it.
        identity: What else a checkpoint must agree in to be gone on from, such as digests of
            images and backbone.
        on_epoch: Called after each epoch with the number of epochs done and the mean loss, on each
            rank; after a resume first with the epochs that were done before.
        on_checkpoint: Called on rank 0 with ``checkpoint`` each time it was written.
        stop: Asked before the first step and after each one; where it says yes on any rank, all
            ranks stop there.
        process_group: The processes that train together; by default this one alone.

    Raises:
        Stopped: If ``stop`` said so; the checkpoint then holds exactly what was done.
        TrainingError: If loss or weights become NaN or infinite; earlier checkpoints stay. If the
            ranks are not all of this training, or another one failed. If memory does not hold one
            image: where it does not hold a batch, that goes through the model in parts. If
            activations are to be recomputed, and the model cannot do that.
        CheckpointError: If the checkpoint is altered or of another training.
        StorageError: If a checkpoint cannot be written.
    """
    begin = time.monotonic()
    device = images.device
    process_group = process_group or ProcessGroup(device)
    size = settings.batch_size
    steps = math.ceil(len(labels) / size)
    warmup = settings.warmup_epochs * steps
    trained = list(parameters.values())
    # An optimizer knows parameters by number, a checkpoint by name: the factors are last in both.
    parameters = dict(sorted(parameters.items(), key=lambda item: is_scaling(item[0])))
    scaling = [parameter for name, parameter in parameters.items() if is_scaling(name)]
    groups: list[dict[str, Any]] = [
        {"params": list(parameters.values())[: len(parameters) - len(scaling)]},
        {"params": scaling, "lr_scale": settings.scaling_lr_ratio},  # timm's schedulers read it
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
    )
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=max((settings.epochs - settings.warmup_epochs) * steps, 1),
        warmup_t=warmup,
        warmup_lr_init=settings.lr / (warmup + 1),
        warmup_prefix=True,  # the cosine begins at the peak
        t_in_epochs=False,
    )
    norms = _set_mode(model, parameters)
    if settings.grad_checkpointing:
        _set_grad_checkpointing(model, True)
    training = {
        "seed": seed,
        "stage": stage,
        "settings": _identity(settings),
        "identity": dict(identity or {}),
    }
    process_group.copy_from_main([*model.parameters(), *model.buffers(), *trained])
    keeper = Keeper(
        checkpoint, training, parameters, norms, optimizer, process_group, on_checkpoint
    )
    at = keeper.resume(steps)
    begin -= at.seconds

    def report() -> None:
        with process_group.together():
            if at.losses and on_epoch is not None:
                on_epoch(len(at.losses), at.losses[-1])

    def write() -> None:
        at.seconds = time.monotonic() - begin
        keeper.write(at)

    pieces = Pieces(stage)
    report()
    stopping = len(at.losses) < settings.epochs and process_group.any(stop or _never)
    if stopping:
        write()
        raise _stopped(stage, at, steps)
    for epoch in range(len(at.losses), settings.epochs):
        order_rng = stage_rng(seed, stage, epoch, 0)
        path_rng = stage_rng(seed, stage, epoch, 1, *process_group.address)
        order = torch.from_numpy(order_rng.permutation(len(labels))).to(device)
        total = torch.tensor(at.loss_sum, dtype=torch.float32, device=device)
        if before_step is not None:
            with process_group.together():
                for _ in range(at.step):
                    before_step(path_rng)
        with seeded(0):  # to leave the global generators alone; each step seeds anew
            begins = range(0, len(order), size)
            shares = [process_group.share(order[start : start + size]) for start in begins]
            coming = batches(images, shares[at.step :])
            while at.step < steps and not stopping:
                batch = min(size, len(order) - at.step * size)
                noise_rng = stage_rng(seed, stage, epoch, 2, at.step, *process_group.address)
                torch.manual_seed(int(noise_rng.integers(2**63)))  # shifts, drop-path, dropout
                scheduler.step_update(epoch * steps + at.step)
                loss = torch.zeros((), device=device)
                with process_group.sum_gradients(trained, loss):
                    if before_step is not None:
                        before_step(path_rng)
                    x, y = next(coming), labels[shares[at.step]]
                    x = augmented(x, shift=settings.shift, hflip=settings.hflip)
                    loss += pieces.run(len(y), partial(_backward, model, trained, x, y, batch))
                if settings.clip_grad:
                    nn.utils.clip_grad_norm_(trained, settings.clip_grad)
                optimizer.step()
                total += loss
                at.step += 1
                stopping = process_group.any(stop or _never)
        at.loss_sum = total.item()
        mean = at.loss_sum / min(at.step * size, len(labels))
        with process_group.together():
            _check_finite(mean, parameters, epoch, settings, stage)
        if whole := at.step == steps:
            at.losses.append(mean)
            at.step, at.loss_sum = 0, 0.0
        done = len(at.losses)
        due = whole and (done % settings.checkpoint_every == 0 or done == settings.epochs)
        if due or stopping:
            write()
        if whole:
            report()
        if stopping:
            raise _stopped(stage, at, steps)
    # The statistics of trained batch norms are rank 0's, whose shares are the largest. Training
    # never reads them, so to copy them once is to have copied them at each step.
    process_group.copy_from_main([*trained, *norms.values()])
    model.eval()
    if settings.grad_checkpointing:
        _set_grad_checkpointing(model, False)
    return TrainingResult(at.losses, len(at.losses) * len(labels), time.monotonic() - begin)


def _identity(settings: TrainingSettings) -> dict[str, Any]:
    """The settings without those that do not change what is trained."""
    return settings.model_dump(mode="json", exclude={"checkpoint_every", "grad_checkpointing"})


def _backward(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    images: Tensor,
    labels: Tensor,
    batch: int,
    most: int,
) -> Tensor:
    """Set the gradient to that of a share's part of the mean loss of a batch.

    Args:
        model: The model.
        parameters: What is trained.
        images: The images of the share.
        labels: Their classes.
        batch: Images of the whole batch.
        most: Images that go through the model at a time.

    Returns:
        The summed loss of the share.
    """
    for parameter in parameters:
        parameter.grad = None  # an attempt with more images at a time may have left something
    device = labels.device.type
    total = torch.zeros((), device=labels.device)
    for start in range(0, len(labels), most):  # nothing, where there are more ranks than images
        x, y = images[start : start + most], labels[start : start + most]
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = F.cross_entropy(model(x), y)
        torch.autograd.backward(loss * (len(y) / batch))
        total += loss.detach().float() * len(y)
    return total


def _never() -> bool:
    return False


def _stopped(stage: str, at: Position, steps: int) -> Stopped:
    return Stopped(
        f"The training {stage!r} stopped after {len(at.losses)} epochs and {at.step} of {steps} "
        "steps; start it again to go on there."
    )


def _set_mode(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Training mode, but frozen batch norms; returns the statistics that training will move."""
    model.train()
    trained = {id(parameter) for parameter in parameters.values()}
    moving: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            if any(id(parameter) in trained for parameter in module.parameters()):
                moving |= {f"{name}.{key}": buffer for key, buffer in module.named_buffers()}
            else:
                module.eval()
    return moving


def _set_grad_checkpointing(model: nn.Module, wanted: bool) -> None:
    """Turn timm's activation checkpointing on or off.

    The path is activated before a step and drop-path draws from a saved state, so what is computed
    again is the same.
    """
    try:
        model.set_grad_checkpointing(wanted)  # type: ignore[operator]
    except (AttributeError, AssertionError, NotImplementedError) as error:
        raise TrainingError(
            "training.recompute needs a backbone with timm's set_grad_checkpointing, "
            f"{type(model).__name__} does not have it ({str(error) or 'not supported'}); leave it "
            "out."
        ) from None


def _check_finite(
    loss: float,
    parameters: Mapping[str, nn.Parameter],
    epoch: int,
    settings: TrainingSettings,
    stage: str,
) -> None:
    norms = torch.stack([p.detach().float().norm() for p in parameters.values()])
    if not (math.isfinite(loss) and bool(torch.isfinite(norms).all())):
        raise TrainingError(
            f"The training loss must stay finite; in epoch {epoch + 1} of {stage!r} loss or "
            f"weights became NaN or infinite (loss {loss}); lower lr (now {settings.lr}) or "
            "raise warmup_epochs."
        )
