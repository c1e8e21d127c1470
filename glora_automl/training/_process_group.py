"""Process groups: training on several GPUs of one or more machines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

from glora_automl import errors
from glora_automl._extras import require
from glora_automl.errors import TrainingError

__all__ = ["ProcessGroup"]

T = TypeVar("T")

TIMEOUT = timedelta(days=7)
"""Maximum wait for the other processes, as the main process may search alone for days.

A dead process ends the others much earlier: torchrun stops those on the same machine, and broken
connections stop those on other machines.
"""


class ProcessGroup:
    """Processes that train together; an instance of this class is a group of one process.

    ``torchrun`` starts one process per GPU and numbers them from 0. Process 0 is the main process,
    which writes checkpoints and accesses databases. Each process draws its own path for its shard
    of the batch. The gradient is that of the mean loss of the whole batch, so settings mean the
    same for any number of GPUs. Batch norms see one shard. All processes end with the same weights.
    A training may resume with another number of processes; its paths then differ.

    Every process must call the methods in the same order, except :meth:`shard`. A single process
    imports neither accelerate nor ``torch.distributed``.

    Args:
        device: Device of this process.

    Attributes:
        index: Index of this process.
        size: Number of processes.
        device: Device of this process.

    Example:
        >>> process_group = ProcessGroup.from_environment(torch.device("cpu"))
        >>> process_group.index, process_group.size, process_group.is_main
        (0, 1, True)
        >>> process_group.from_main(lambda: "from the main process")
        'from the main process'
    """

    index = 0
    size = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @staticmethod
    def from_environment(device: torch.device) -> ProcessGroup:
        """Return the group that ``torchrun`` started, or a group of this process alone.

        Args:
            device: ``cpu``, or ``cuda`` for the GPU with each process's ``LOCAL_RANK``.

        Raises:
            TrainingError: If accelerate is not installed, or there are fewer GPUs than processes.
        """
        # Slurm sets WORLD_SIZE, too, for programs that open no connection.
        if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "LOCAL_RANK" not in os.environ:
            return ProcessGroup(device)
        local = int(os.environ["LOCAL_RANK"])
        if device.type == "cuda" and local >= torch.cuda.device_count():
            raise TrainingError(
                "torchrun must start at most one process per GPU, got LOCAL_RANK="
                f"{local} on a machine with {torch.cuda.device_count()} GPU(s). Start fewer "
                "processes per machine, or set `device` to cpu."
            )
        return _Connected(device)

    @property
    def is_main(self) -> bool:
        """True in process 0."""
        return self.index == 0

    @property
    def address(self) -> tuple[int, ...]:
        """Position of this process's random numbers; the main process draws like a single one."""
        return (self.index,) if self.index else ()

    def shard(self, batch: Tensor) -> Tensor:
        """Return this process's shard of a batch; it is never empty in the main process."""
        return batch[self.index :: self.size]

    @contextmanager
    def sum_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Iterator[None]:
        """Sum the gradients and the loss over the processes in place, after the block.

        A parameter without a gradient in any process keeps none, so the optimiser skips it. All
        processes raise if the block fails in one.
        """
        yield

    def any(self, condition: Callable[[], bool]) -> bool:
        """Return True if the condition holds in any process; all raise if it fails in one."""
        return bool(condition())

    @contextmanager
    def propagate_errors(self) -> Iterator[None]:
        """Raise an error of the block in all processes; they leave the block together.

        The others raise the same error if it is one of :mod:`glora_automl.errors`, otherwise a
        :class:`~glora_automl.errors.TrainingError` that names it.
        """
        yield

    def broadcast(self, value: T) -> T:
        """Return the main process's value; it is pickled for the others."""
        return value

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the main process's tensors on this device; those of the others are ignored."""
        return dict(tensors)

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Copy the main process's tensors into those of the others, of the same shapes."""

    def from_main(self, function: Callable[[], T]) -> T:
        """Call ``function`` in the main process only, and return its result in all."""
        result: T | None = None
        with self.propagate_errors():
            if self.is_main:
                result = function()
        return self.broadcast(result)  # type: ignore[return-value]

    def close(self) -> None:
        """Close the connection of a successful program; after an error torchrun closes it."""


class _Connected(ProcessGroup):
    """Processes that torchrun started, connected by Hugging Face accelerate.

    accelerate works on plain PyTorch objects. It adds one small package to huggingface_hub and
    safetensors, which timm requires anyway; Lightning Fabric adds more.

    DistributedDataParallel does not fit. It requires a forward pass in each process, even for an
    empty shard. That would give weights on its path a zero gradient instead of none, and AdamW
    would decay them. Its overlap of transfer and backward pass saves little for adapters.
    """

    def __init__(self, device: torch.device) -> None:
        purpose = "training in several processes"
        accelerate = require("accelerate", "distributed", TrainingError, purpose)
        self._state = accelerate.PartialState(cpu=device.type == "cpu", timeout=TIMEOUT)
        # accelerate names it cpu:1, torch names it cpu.
        super().__init__(device if device.type == "cpu" else self._state.device)
        self.index = self._state.process_index
        self.size = self._state.num_processes

    @contextmanager
    def sum_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Iterator[None]:
        error = None
        try:
            yield
        except BaseException as caught:
            error = caught
        # One vector, for one exchange per step: failures, number of processes with a gradient of
        # each parameter, loss and gradients.
        counts = [float(error is not None), *(float(p.grad is not None) for p in parameters)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        parts = [torch.tensor(counts, device=self.device), loss, *gradients]
        vector = self._sum(torch.cat([part.detach().flatten() for part in parts]))
        count_sums, total, *sums = torch.split(vector, [part.numel() for part in parts])
        failed, *n_gradients = count_sums.tolist()
        if failed:
            self._raise(error)
        loss.copy_(total.view_as(loss))
        for parameter, count, gradient in zip(parameters, n_gradients, sums, strict=True):
            if count:
                parameter.grad = gradient.view_as(parameter).to(parameter.dtype)

    def any(self, condition: Callable[[], bool]) -> bool:
        holds, error = False, None
        try:
            holds = bool(condition())
        except BaseException as caught:
            error = caught
        return self._exchange(holds, error)

    @contextmanager
    def propagate_errors(self) -> Iterator[None]:
        error = None
        try:
            yield
        except BaseException as caught:  # the others would wait after a KeyboardInterrupt
            error = caught
        self._exchange(False, error)

    def broadcast(self, value: T) -> T:
        from accelerate.utils import broadcast_object_list

        values = [value]
        broadcast_object_list(values)
        return values[0]

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        layout = self.broadcast({name: (t.shape, t.dtype) for name, t in tensors.items()})
        result = {
            name: tensors[name].to(self.device)
            if self.is_main
            else torch.empty(shape, dtype=dtype, device=self.device)
            for name, (shape, dtype) in layout.items()
        }
        self.copy_from_main(result.values())
        return result

    @torch.no_grad()
    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        from accelerate.utils import broadcast

        for tensor in tensors:
            plain = tensor.detach().contiguous()
            broadcast(plain)
            tensor.copy_(plain)

    def close(self) -> None:
        self._state.destroy_process_group()

    def _sum(self, tensor: Tensor) -> Tensor:
        from accelerate.utils import reduce

        total: Tensor = reduce(tensor, "sum")
        return total

    def _exchange(self, flag: bool, error: BaseException | None) -> bool:
        """Return True if any process sets the flag; raise if any process has an error."""
        local = torch.tensor([float(flag), float(error is not None)], device=self.device)
        flags, failures = self._sum(local).tolist()
        if failures:
            self._raise(error)
        return bool(flags)

    def _raise(self, error: BaseException | None) -> None:
        from accelerate.utils import gather_object

        local = [] if error is None else [(self.index, type(error).__name__, str(error))]
        index, name, message = gather_object(local)[0]
        if error is not None:
            raise error
        if name in errors.__all__:
            raise getattr(errors, name)(message)
        raise TrainingError(
            f"All {self.size} processes must succeed, got {name} in process {index}: {message}. "
            f"Read the output of process {index}."
        )
