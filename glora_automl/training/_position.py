"""How far a training is, and the checkpoint that holds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glora_automl.errors import CheckpointError, TrainingError
from glora_automl.training._checkpoint import load_checkpoint, save_checkpoint
from glora_automl.training._process_group import ProcessGroup

__all__ = ["Keeper", "Position"]


@dataclass
class Position:
    """How far a training is.

    Attributes:
        losses: Mean loss of each epoch that is done.
        step: Steps done of the epoch after those.
        loss_sum: Their losses times their images, summed as float32.
        seconds: Wall time.
    """

    losses: list[float] = field(default_factory=list)
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0

    @classmethod
    def pop(cls, state: dict[str, Any], steps: int) -> Position | None:
        """Take the position out of a checkpoint's state; None if there is none.

        Args:
            state: The state, of which the rest says what training it is.
            steps: Steps of an epoch.
        """
        losses, seconds = state.pop("losses", None), state.pop("seconds", None)
        # Between epochs nothing is written of them.
        step, loss_sum = state.pop("step", 0), state.pop("loss_sum", 0.0)
        if not isinstance(losses, list) or not isinstance(seconds, int | float):
            return None
        if type(step) is not int or not 0 <= step < max(steps, 1):
            return None
        if not isinstance(loss_sum, float) or not math.isfinite(loss_sum):
            return None
        return cls([float(loss) for loss in losses], step, loss_sum, float(seconds))

    def state(self) -> dict[str, Any]:
        """The position as a part of a checkpoint's state."""
        within = {"step": self.step, "loss_sum": self.loss_sum} if self.step else {}
        return {"losses": self.losses, "seconds": self.seconds, **within}


class Keeper:
    """Writes and reads the checkpoint of a training, on rank 0 and for all ranks.

    Args:
        path: JSON file of the checkpoint; None keeps none.
        training: What a checkpoint must agree in to be of this training.
        parameters: What is trained, by name.
        norms: Statistics that training moves, by name.
        optimizer: AdamW on the parameters.
        process_group: Who trains.
        on_checkpoint: Called on rank 0 with ``path`` after each checkpoint.
    """

    def __init__(
        self,
        path: Path | None,
        training: dict[str, Any],
        parameters: Mapping[str, nn.Parameter],
        norms: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        process_group: ProcessGroup,
        on_checkpoint: Callable[[Path], object] | None,
    ) -> None:
        self._path = path
        self._training = training
        self._parameters = parameters
        self._targets: dict[str, Tensor] = {**parameters, **norms}
        self._optimizer = optimizer
        self._ranks = process_group
        self._on_checkpoint = on_checkpoint

    def write(self, position: Position) -> None:
        """Write a checkpoint, if there is to be one."""
        with self._ranks.together():
            if self._path is not None and self._ranks.is_main:
                save_checkpoint(self._path, self._tensors(), {**self._training, **position.state()})
                if self._on_checkpoint is not None:
                    self._on_checkpoint(self._path)

    def resume(self, steps: int) -> Position:
        """Take over rank 0's checkpoint, if there is one; returns where it left off.

        Args:
            steps: Steps of an epoch.
        """
        found = None
        main = self._ranks.broadcast(self._training)
        with self._ranks.together():
            if differs := _difference(main, self._training):
                raise TrainingError(
                    f"All ranks must be of one training, but {differs} differ between rank 0 and "
                    f"rank {self._ranks.index}; start the same command on the same data everywhere."
                )
            if self._path is not None and self._ranks.is_main:
                found = load_checkpoint(self._path)
        state = self._ranks.broadcast(None if found is None else found[1])
        if state is None:
            return Position()
        tensors = self._ranks.broadcast_tensors({} if found is None else found[0])
        with self._ranks.together():
            return self._take_over(tensors, state, steps)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": value for name, value in self._targets.items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        return tensors

    @torch.no_grad()
    def _take_over(self, tensors: dict[str, Tensor], state: dict[str, Any], steps: int) -> Position:
        shapes = {f"model.{name}": value.shape for name, value in self._targets.items()}
        got = {name: value.shape for name, value in tensors.items() if name.startswith("model.")}
        position = Position.pop(state, steps)
        if state != self._training or got != shapes or position is None:
            differs = _difference(state, self._training) or ("tensors" if position else "position")
            raise CheckpointError(
                f"The checkpoint {str(self._path)!r} must be of this training, but "
                f"{differs} differ; delete it to train anew."
            )
        for name, target in self._targets.items():
            target.copy_(tensors[f"model.{name}"])
        # AdamW keeps no state for what has had no gradient yet, so a name may be missing.
        slots = {}
        for index, name in enumerate(self._parameters):
            keys = ("step", "exp_avg", "exp_avg_sq")
            slot = {key: tensors.get(f"optimizer.{key}.{name}") for key in keys}
            if all(value is not None for value in slot.values()):
                slots[index] = slot
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": slots})
        return position


def _difference(state: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """The first thing in which a checkpoint's state is another one."""
    for key, value in expected.items():
        other = state.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            for name in value:
                if other.get(name) != value[name]:
                    return f"{key} ({name})"
        if other != value:
            return key
    return None
