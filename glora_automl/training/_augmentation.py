"""Images as they might have been: shifted, mirrored."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["augmented"]


def augmented(images: Tensor, *, shift: float = 0.0, hflip: bool = False) -> Tensor:
    """Shift each image at random, and mirror half of them.

    What is moved in at an edge repeats that edge. Random numbers are torch's, on the images'
    device.

    Args:
        images: ``(n, channels, height, width)``.
        shift: The most by which an image is moved up, down, left or right, as a share of its
            height and width.
        hflip: Whether each is mirrored from left to right with probability 0.5.

    Returns:
        As many images of the same size; the same tensor where there is nothing to do.

    Example:
        >>> image = torch.arange(4.0).reshape(1, 1, 1, 4)
        >>> _ = torch.manual_seed(1)
        >>> augmented(image, shift=0.25)[0, 0, 0].tolist()
        [1.0, 2.0, 3.0, 3.0]
    """
    if not (shift or hflip):
        return images
    count, channels, height, width = images.shape
    device = images.device
    rows = _moved(count, height, shift, device)
    columns = _moved(count, width, shift, device)
    if hflip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    nth = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return images[nth, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _moved(count: int, size: int, shift: float, device: torch.device) -> Tensor:
    """For each image where its rows, or columns, come from, ``(count, size)``."""
    most = int(shift * size)
    by = torch.randint(-most, most + 1, (count, 1), device=device)
    return (torch.arange(size, device=device) + by).clamp(0, size - 1)
