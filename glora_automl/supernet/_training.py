"""The one training loop: supernet, fine-tuning, controls and backbone go through it."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from glora_automl._declarations import Declaration, Float, Int
from glora_automl.errors import CheckpointError, TrainingError
from glora_automl.supernet._checkpoint import load_checkpoint, save_checkpoint

__all__ = ["TrainingResult", "TrainingSettings", "train"]


class TrainingSettings(Declaration):
    """AdamW with a cosine schedule.

    Attributes:
        epochs: Passes over the images; may be 0.
        batch_size: Images a step; the last batch of an epoch may be smaller.
        lr: Peak learning rate.
        weight_decay: AdamW's decoupled weight decay.
        warmup_epochs: Epochs of linear warm-up, of the ``epochs``.
        clip_grad: Largest norm of the gradient; 0 turns clipping off.
        checkpoint_every: Epochs between checkpoints.
    """

    epochs: Int = Field(ge=0)
    batch_size: Int = Field(default=64, ge=1)
    lr: Float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    weight_decay: Float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    warmup_epochs: Int = Field(default=0, ge=0)
    clip_grad: Float = Field(default=1.0, ge=0, allow_inf_nan=False)
    checkpoint_every: Int = Field(default=10, ge=1)


class SupernetSettings(TrainingSettings):
    """How the supernet is trained.

    Attributes:
        paths: How each step's architecture is drawn: ``uniform`` over choices as in the paper, or
            under the ``budget``, spread evenly over sizes.
    """

    paths: Literal["uniform", "budget"] = "budget"


class TrainingResult(NamedTuple):
    """What a training did.

    Attributes:
        losses: Mean training loss of each epoch, those before a resume included.
        images: Images seen, those before a resume included.
        seconds: Wall time, that before a resume included up to the checkpoint.
    """

    losses: list[float]
    images: int
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
    images: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
    *,
    seed: int,
    stage: str,
    before_step: Callable[[np.random.Generator], object] | None = None,
    checkpoint: Path | None = None,
    identity: Mapping[str, str] | None = None,
    on_epoch: Callable[[int, float], object] | None = None,
) -> TrainingResult:
    """Train ``parameters`` of ``model`` by cross-entropy; go on from ``checkpoint`` if it exists.

    Order of the images, paths and drop-path of an epoch come from (seed, stage, epoch), so on the
    CPU a training that was killed and started again ends with the same weights. Batch norms
    without a trained parameter keep their statistics. On CUDA the forward pass runs in bfloat16.

    Args:
        model: Gives logits for images; it is left in evaluation mode.
        parameters: What is trained, by name.
        images: Normalised images ``(n, channels, height, width)`` on the model's device.
        labels: Class indices ``(n,)`` on the same device.
        settings: Length, learning rate and the like.
        seed: Seed of all randomness.
        stage: Name of the training; trainings with other names draw other numbers.
        before_step: Called before each step with the path generator, to activate a path.
        checkpoint: JSON file of the checkpoint.
        identity: What else a checkpoint must agree in to be gone on from, such as digests of
            images and backbone.
        on_epoch: Called after each epoch with the number of epochs done and the mean loss; after
            a resume first with the epochs that were done before.

    Raises:
        TrainingError: If loss or weights become NaN or infinite; earlier checkpoints stay.
        CheckpointError: If the checkpoint is altered or of another training.
        StorageError: If a checkpoint cannot be written.
    """
    begin = time.monotonic()
    device = images.device
    steps = math.ceil(len(labels) / settings.batch_size)
    warmup = settings.warmup_epochs * steps
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay
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
    losses: list[float] = []
    earlier = 0.0
    whole = {
        "seed": seed,
        "stage": stage,
        # How often it is written does not change what is trained.
        "settings": settings.model_dump(mode="json", exclude={"checkpoint_every"}),
        "identity": dict(identity or {}),
    }
    if checkpoint is not None and (found := load_checkpoint(checkpoint)) is not None:
        losses, earlier = _resume(checkpoint, found, parameters, norms, optimizer, whole)
        if losses and on_epoch is not None:
            on_epoch(len(losses), losses[-1])
    for epoch in range(len(losses), settings.epochs):
        order_rng, path_rng, noise_rng = (stage_rng(seed, stage, epoch, i) for i in range(3))
        order = torch.from_numpy(order_rng.permutation(len(labels))).to(device)
        total = torch.zeros((), device=device)
        with seeded(int(noise_rng.integers(2**63))):  # drop-path and dropout
            for step in range(steps):
                batch = order[step * settings.batch_size : (step + 1) * settings.batch_size]
                if before_step is not None:
                    before_step(path_rng)
                scheduler.step_update(epoch * steps + step)
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    loss = F.cross_entropy(model(images[batch]), labels[batch])
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                if settings.clip_grad:
                    nn.utils.clip_grad_norm_(parameters.values(), settings.clip_grad)
                optimizer.step()
                total += loss.detach().float() * len(batch)
        losses.append(total.item() / len(labels))
        _check_finite(losses[-1], parameters, epoch, settings, stage)
        done = epoch + 1
        if checkpoint is not None and (
            done % settings.checkpoint_every == 0 or done == settings.epochs
        ):
            seconds = earlier + time.monotonic() - begin
            state = {**whole, "losses": losses, "seconds": seconds}
            save_checkpoint(checkpoint, _tensors(parameters, norms, optimizer), state)
        if on_epoch is not None:
            on_epoch(done, losses[-1])
    model.eval()
    seconds = earlier + time.monotonic() - begin
    return TrainingResult(losses, len(losses) * len(labels), seconds)


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


def _difference(state: dict[str, Any], expected: dict[str, Any]) -> str:
    """The first thing in which a checkpoint's state is another one."""
    for key, value in expected.items():
        other = state.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            for name in value:
                if other.get(name) != value[name]:
                    return f"{key} ({name})"
        if other != value:
            return key
    return "tensors"


def _tensors(
    parameters: Mapping[str, nn.Parameter],
    norms: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Tensor]:
    tensors = {f"model.{name}": value for name, value in (*parameters.items(), *norms.items())}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    return tensors


@torch.no_grad()
def _resume(
    path: Path,
    found: tuple[dict[str, Tensor], dict[str, Any]],
    parameters: Mapping[str, nn.Parameter],
    norms: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    expected: dict[str, Any],
) -> tuple[list[float], float]:
    """Take over a checkpoint; returns the losses and the seconds until then."""
    tensors, state = found
    targets = {**parameters, **norms}
    shapes = {f"model.{name}": value.shape for name, value in targets.items()}
    got = {name: value.shape for name, value in tensors.items() if name.startswith("model.")}
    losses, seconds = state.pop("losses", None), state.pop("seconds", None)
    if state != expected or got != shapes or not isinstance(losses, list):
        raise CheckpointError(
            f"The checkpoint {str(path)!r} must be of this training, but "
            f"{_difference(state, expected)} differ; delete it to train anew."
        )
    for name, target in targets.items():
        target.copy_(tensors[f"model.{name}"])
    # AdamW keeps no state for what has had no gradient yet, so a name may be missing.
    slots = {}
    for index, name in enumerate(parameters):
        keys = ("step", "exp_avg", "exp_avg_sq")
        slot = {key: tensors.get(f"optimizer.{key}.{name}") for key in keys}
        if all(value is not None for value in slot.values()):
            slots[index] = slot
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    return [float(loss) for loss in losses], float(seconds)


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
