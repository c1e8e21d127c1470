"""Going on with smaller batches where memory ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from glora_automl.errors import TrainingError

__all__ = ["Pieces"]

T = TypeVar("T")
_logger = logging.getLogger(__name__)


class Pieces:
    """How many images go through a model at a time: all that are given, or what memory holds.

    Args:
        purpose: What they go through it for, as it is told.

    Attributes:
        most: Images at a time; None until memory has ended.

    Example:
        >>> pieces = Pieces("doctest")
        >>> def attempt(most):
        ...     if most > 16:
        ...         raise torch.OutOfMemoryError
        ...     return most
        >>> pieces.run(64, attempt), pieces.most
        (16, 16)
    """

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self.most: int | None = None

    def run(self, images: int, attempt: Callable[[int], T]) -> T:
        """Call ``attempt`` with a number of images at a time, halved while memory does not hold.

        Args:
            images: How many there are in all.
            attempt: Goes through all of them; called again from the start.

        Raises:
            TrainingError: If memory does not hold a single image.
        """
        while True:
            most = max(1, min(images, self.most or images))
            try:
                return attempt(most)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0] if str(error) else "out of memory"
            # Outside of the except block nothing holds the tensors of the attempt any more.
            if most <= 1:
                raise TrainingError(
                    f"The memory of the device must hold at least one image ({self._purpose}): "
                    f"{reason}; free it, or take a smaller backbone or image size."
                )
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.most = most // 2
            _logger.warning(
                "Out of memory with %d images at a time (%s); going on with %d.",
                most,
                self._purpose,
                self.most,
            )


def _is_out_of_memory(error: RuntimeError) -> bool:
    # The CPU's allocator has no exception of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
