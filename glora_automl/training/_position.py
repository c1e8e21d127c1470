"""Position of a training and the checkpoint that holds it."""

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

__all__ = ["CheckpointManager", "Position"]


@dataclass
class Position:
    """Position of a training.

    Attributes:
        losses: Mean loss per finished epoch.
        step: Finished steps of the current epoch.
        loss_sum: Sum of that epoch's losses over its images so far, in float32.
        seconds: Wall time.
    """

    losses: list[float] = field(default_factory=list)
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0

    @classmethod
    def pop(cls, state: dict[str, Any], n_steps: int) -> Position | None:
        """Remove the position from a checkpoint's state; return None if it is missing or invalid.

        Args:
            state: State of a checkpoint; the key of the training remains.
            n_steps: Steps per epoch.
        """
        losses, seconds = state.pop("losses", None), state.pop("seconds", None)
        # A state between epochs has neither step nor sum.
        step, loss_sum = state.pop("step", 0), state.pop("loss_sum", 0.0)
        if not isinstance(losses, list) or not isinstance(seconds, int | float):
            return None
        if type(step) is not int or not 0 <= step < max(n_steps, 1):
            return None
        if not isinstance(loss_sum, float) or not math.isfinite(loss_sum):
            return None
        return cls([float(loss) for loss in losses], step, loss_sum, float(seconds))

    def state(self) -> dict[str, Any]:
        """Return the position as a part of a checkpoint's state."""
        within = {"step": self.step, "loss_sum": self.loss_sum} if self.step else {}
        return {"losses": self.losses, "seconds": self.seconds, **within}

    def end_epoch(self, loss: float) -> None:
        """Move to the start of the next epoch.

        Args:
            loss: Mean loss of the finished epoch.
        """
        self.losses.append(loss)
        self.step, self.loss_sum = 0, 0.0


class CheckpointManager:
    """Writes and resumes the checkpoint of a training, in the main process for all processes.

    Args:
        path: JSON file of the checkpoint; None writes none.
        key: Values that a checkpoint must match to be resumed.
        parameters: Trained parameters by name, in the optimiser's order.
        statistics: Batch norm statistics that training moves, by name.
        optimizer: AdamW on the parameters.
        process_group: Processes that train together.
        on_checkpoint: Called with ``path`` after each checkpoint, in the main process.
        scaler: Scale of the loss of a float16 training.
    """

    def __init__(
        self,
        path: Path | None,
        key: dict[str, Any],
        parameters: Mapping[str, nn.Parameter],
        statistics: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        process_group: ProcessGroup,
        on_checkpoint: Callable[[Path], object] | None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self._path = path
        self._key = key
        self._parameters = parameters
        self._targets: dict[str, Tensor] = {**parameters, **statistics}
        self._optimizer = optimizer
        self._group = process_group
        self._on_checkpoint = on_checkpoint
        self._scaler = scaler

    def write(self, position: Position) -> None:
        """Write a checkpoint if there is a path for it."""
        with self._group.propagate_errors():
            if self._path is not None and self._group.is_main:
                save_checkpoint(self._path, self._tensors(), {**self._key, **position.state()})
                if self._on_checkpoint is not None:
                    self._on_checkpoint(self._path)

    def resume(self, n_steps: int) -> Position:
        """Load the main process's checkpoint if it exists, and return its position.

        Args:
            n_steps: Steps per epoch.
        """
        found = None
        main_key = self._group.broadcast(self._key)
        with self._group.propagate_errors():
            if name := _difference(main_key, self._key):
                raise TrainingError(
                    f"All processes must run the same training, got other {name} in process "
                    f"{self._group.index} than in process 0. Start the same command on the same "
                    "data everywhere."
                )
            if self._path is not None and self._group.is_main:
                found = load_checkpoint(self._path)
        state = self._group.broadcast(None if found is None else found[1])
        if state is None:
            return Position()
        tensors = self._group.broadcast_tensors({} if found is None else found[0])
        with self._group.propagate_errors():
            return self._restore(tensors, state, n_steps)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": value for name, value in self._targets.items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        if self._scaler is not None:
            state = self._scaler.state_dict()
            tensors |= {f"scaler.{key}": torch.tensor(float(state[key])) for key in _SCALER_KEYS}
        return tensors

    @torch.no_grad()
    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any], n_steps: int) -> Position:
        expected = {f"model.{name}": value.shape for name, value in self._targets.items()}
        shapes = {name: value.shape for name, value in tensors.items() if name.startswith("model.")}
        position = Position.pop(state, n_steps)
        if state != self._key or shapes != expected or position is None:
            name = _difference(state, self._key) or ("tensors" if position else "position")
            raise CheckpointError(
                f"The checkpoint {str(self._path)!r} must be of this training, got other {name}. "
                "Delete it to restart the training."
            )
        for name, target in self._targets.items():
            target.copy_(tensors[f"model.{name}"])
        # AdamW has no state for a parameter before its first gradient, so names may be missing.
        slots = {}
        for index, name in enumerate(self._parameters):
            keys = ("step", "exp_avg", "exp_avg_sq")
            slot = {key: tensors.get(f"optimizer.{key}.{name}") for key in keys}
            if all(value is not None for value in slot.values()):
                slots[index] = slot
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": slots})
        if self._scaler is not None:
            found = {key: tensors.get(f"scaler.{key}") for key in _SCALER_KEYS}
            kept = {k: v.item() for k, v in found.items() if v is not None}
            self._scaler.load_state_dict({**self._scaler.state_dict(), **kept})
        return position


_SCALER_KEYS = ("scale", "_growth_tracker")
"""What changes in the state of a :class:`torch.amp.GradScaler`."""


def _difference(state: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Return the name of the first value that differs, or None."""
    for key, value in expected.items():
        other = state.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            for name in value:
                if other.get(name) != value[name]:
                    return f"{key} ({name})"
        if other != value:
            return key
    return None
