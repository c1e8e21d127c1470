"""Training on several GPUs of one or many machines: what the processes tell each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

from glora_automl import errors
from glora_automl.errors import TrainingError

__all__ = ["ProcessGroup"]

T = TypeVar("T")

TIMEOUT = timedelta(days=7)
"""How long a process waits for the others: as long as rank 0 may search alone.

A process that died is noticed long before: torchrun ends those beside it, and to those on other
machines its connection breaks.
"""


class ProcessGroup:
    """The processes that train together; as made here, this process alone.

    ``torchrun`` starts the same program once a GPU, and gives each process a rank, counted from
    0. Rank 0 does what must be done once: it writes checkpoints and talks to databases. All
    methods but :meth:`share` must be called on every rank, in the same order. Nothing of
    accelerate or ``torch.distributed`` is imported for a process alone.

    Args:
        device: Where this process trains.

    Attributes:
        index: The rank of this process.
        size: How many processes there are.
        device: Where this process trains.

    Example:
        >>> process_group = ProcessGroup.from_environment(torch.device("cpu"))
        >>> process_group.index, process_group.size, process_group.is_main
        (0, 1, True)
        >>> process_group.from_main(lambda: "what only rank 0 can know")
        'what only rank 0 can know'
    """

    index = 0
    size = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @staticmethod
    def from_environment(device: torch.device) -> ProcessGroup:
        """The processes that ``torchrun`` started, or this one alone.

        Args:
            device: ``cpu``, or ``cuda`` for the GPU of each process's local rank.

        Raises:
            TrainingError: If accelerate is not installed, or there are fewer GPUs than processes.
        """
        # Slurm and the like set WORLD_SIZE, too, for programs that are not theirs to connect.
        if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "LOCAL_RANK" not in os.environ:
            return ProcessGroup(device)
        local = int(os.environ["LOCAL_RANK"])
        if device.type == "cuda" and local >= torch.cuda.device_count():
            raise TrainingError(
                f"torchrun must start at most one process a GPU, but local rank {local} finds "
                f"{torch.cuda.device_count()} GPU(s); set --nproc-per-node to that or use "
                "--device cpu."
            )
        return _Connected(device)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.index == 0

    @property
    def address(self) -> tuple[int, ...]:
        """What this rank adds to the address of its random numbers; rank 0 draws as one alone."""
        return (self.index,) if self.index else ()

    def share(self, batch: Tensor) -> Tensor:
        """This rank's part of a batch; it may be empty, but never on rank 0."""
        return batch[self.index :: self.size]

    @contextmanager
    def sum_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Iterator[None]:
        """After the block, sum over the ranks in place: the gradients and the loss.

        A parameter that has no gradient on any rank keeps none, so that the optimizer leaves it.
        All ranks raise if the block fails on one.
        """
        yield

    def any(self, ask: Callable[[], bool]) -> bool:
        """Whether the answer is yes on any rank; all ranks raise if asking fails on one."""
        return bool(ask())

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all ranks leave together: if it fails on one, it raises on all.

        The others raise the same error if it is one of :mod:`glora_automl.errors`, otherwise a
        :class:`~glora_automl.errors.TrainingError` that names it.
        """
        yield

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank; it is pickled on the way."""
        return value

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rank 0's tensors, on every rank's device; what the others give is ignored."""
        return dict(tensors)

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Set the others' tensors, of the same shapes, to rank 0's."""

    def from_main(self, ask: Callable[[], T]) -> T:
        """What ``ask`` gives on rank 0, which alone calls it, while the others wait."""
        answer: T | None = None
        with self.together():
            if self.is_main:
                answer = ask()
        return self.broadcast(answer)  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        with self.together():
            pass

    def close(self) -> None:
        """End the connection, when a program ends well; after an error torchrun ends it."""


class _Connected(ProcessGroup):
    """Processes that torchrun started, through Hugging Face accelerate.

    accelerate rather than Lightning Fabric: it adds one small package beside huggingface_hub and
    safetensors, which timm already brings, and works on plain PyTorch objects.

    Gradients are summed here and not by DistributedDataParallel: that one wants a forward pass on
    each rank, also on one without an image, and would give the weights on that rank's path a zero
    gradient, for AdamW to decay them, where there must be none. It hides the transfer behind the
    backward pass, which is worth little for adapters.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            from accelerate import PartialState
        except ImportError:
            raise TrainingError(
                "Training under torchrun with WORLD_SIZE > 1 needs accelerate, which is not "
                'installed; pip install "glora-automl[distributed]".'
            ) from None
        self._state = PartialState(cpu=device.type == "cpu", timeout=TIMEOUT)
        # accelerate says cpu:1 where torch says cpu.
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
        # In one vector, for one exchange a step: failures, on how many ranks each parameter has a
        # gradient, the loss and the gradients.
        counts = [float(error is not None), *(float(p.grad is not None) for p in parameters)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        parts = [torch.tensor(counts, device=self.device), loss, *gradients]
        whole = self._sum(torch.cat([part.detach().flatten() for part in parts]))
        found, total, *sums = torch.split(whole, [part.numel() for part in parts])
        failed, *users = found.tolist()
        if failed:
            self._raise(error)
        loss.copy_(total.view_as(loss))
        for parameter, count, gradient in zip(parameters, users, sums, strict=True):
            if count:
                parameter.grad = gradient.view_as(parameter).to(parameter.dtype)

    def any(self, ask: Callable[[], bool]) -> bool:
        answer, error = False, None
        try:
            answer = bool(ask())
        except BaseException as caught:
            error = caught
        return self._exchange(answer, error)

    @contextmanager
    def together(self) -> Iterator[None]:
        error = None
        try:
            yield
        except BaseException as caught:  # a KeyboardInterrupt must not leave the others waiting
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
        """Whether the flag is set on any rank; raises where there is an error on any rank."""
        mine = torch.tensor([float(flag), float(error is not None)], device=self.device)
        flags, failures = self._sum(mine).tolist()
        if failures:
            self._raise(error)
        return bool(flags)

    def _raise(self, error: BaseException | None) -> None:
        from accelerate.utils import gather_object

        mine = [] if error is None else [(self.index, type(error).__name__, str(error))]
        rank, name, message = gather_object(mine)[0]
        if error is not None:
            raise error
        if name in errors.__all__:
            raise getattr(errors, name)(message)
        raise TrainingError(
            f"All {self.size} processes must get through, but rank {rank} failed with {name}: "
            f"{message}; the output of rank {rank} says where."
        )
