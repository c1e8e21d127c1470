"""Micro-batches: smaller forward passes where memory does not hold a batch."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable
from typing import TypeVar

import torch

from glora_automl.errors import TrainingError

__all__ = ["MicroBatching"]

T = TypeVar("T")
_logger = logging.getLogger(__name__)


class MicroBatching:
    """Number of images per forward pass: the whole batch, or as many as memory holds.

    Args:
        purpose: Purpose of the forward passes, for messages.

    Attributes:
        size: Images per micro-batch; None until memory ran out.

    Example:
        >>> micro_batching = MicroBatching("doctest")
        >>> def attempt(size):
        ...     if size > 16:
        ...         raise torch.OutOfMemoryError
        ...     return size
        >>> micro_batching.run(64, attempt), micro_batching.size
        (16, 16)
    """

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self.size: int | None = None

    def run(self, n_images: int, attempt: Callable[[int], T]) -> T:
        """Call ``attempt`` with a micro-batch size, halved as long as memory runs out.

        Args:
            n_images: Images in the batch.
            attempt: Passes the whole batch through the model in micro-batches of the given size.
                It starts over in each call.

        Raises:
            TrainingError: If memory does not hold a single image.
        """
        while True:
            size = max(1, min(n_images, self.size or n_images))
            try:
                return attempt(size)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                reason = textwrap.shorten(str(error), 120, placeholder="...") or "out of memory"
            # Outside of the except block nothing holds the tensors of the attempt any more.
            if size <= 1:
                raise TrainingError(
                    f"The device must have memory for at least one image ({self._purpose}), got: "
                    f"{reason.rstrip('.')}. Free memory, or choose a smaller backbone or image "
                    "size."
                )
            _free_cached_memory()
            self.size = size // 2
            _logger.warning(
                "Out of memory with %d images per forward pass (%s). Retrying with %d.",
                size,
                self._purpose,
                self.size,
            )


_OUT_OF_MEMORY = (
    "can't allocate memory",  # a CPU
    "CUBLAS_STATUS_ALLOC_FAILED",  # the workspace of a product on a CUDA device
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)
"""Parts of messages of memory errors that have no exception of their own."""


def _is_out_of_memory(error: RuntimeError) -> bool:
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        part in message for part in _OUT_OF_MEMORY
    )


def _free_cached_memory() -> None:
    """Return memory that torch keeps for later tensors to the accelerator, if there is one."""
    empty_cache = getattr(torch.get_device_module(), "empty_cache", None)
    if empty_cache is not None:
        empty_cache()
