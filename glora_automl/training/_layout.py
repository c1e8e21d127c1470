"""Memory layout of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["image_layout", "in_layout"]


def image_layout(model: nn.Module) -> torch.memory_format:
    """Return the layout of images in memory with which a model is fast.

    Networks of convolutions are faster with the channels of a pixel side by side, by a tenth to a
    third on a CPU. Convolutions pass the layout on to their outputs. The patch embedding of a
    vision transformer is one convolution, and gains nothing.

    Example:
        >>> layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)]
        >>> image_layout(nn.Sequential(*layers)), image_layout(layers[0])
        (torch.channels_last, torch.contiguous_format)
    """
    n_spatial = sum(
        isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) for module in model.modules()
    )
    return torch.channels_last if n_spatial > 1 else torch.contiguous_format


def in_layout(x: Tensor, layout: torch.memory_format) -> Tensor:
    """Return images in a layout; features of another number of dimensions stay as they are."""
    return x.contiguous(memory_format=layout) if x.ndim == 4 else x
