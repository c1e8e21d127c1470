"""From the bytes of an image file to the pixels that a model wants."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor

from glora_automl.errors import TaskError
from glora_automl.tasks._images import InputFormat

__all__ = ["Encoded", "Resize", "Unreadable", "decode", "fault", "resizing"]

Resize = Literal["squash", "center", "border"]
"""How an image comes to the model's size, in the words of timm's ``crop_mode``."""

Encoded = bytes | Image.Image
"""An image as its source has it: the bytes of a file, or decoded by the source."""


class Unreadable(Exception):
    """An image that cannot be decoded; the message says why."""


def resizing(target: InputFormat, resize: Resize) -> Callable[[Image.Image], Tensor]:
    """The evaluation transform of timm up to normalisation: resized, uint8, channels first.

    Args:
        target: What the model wants to see.
        resize: ``squash`` brings the whole image to the model's size, whatever its shape, as is
            usual on VTAB; ``center`` keeps the shape and crops as the backbone was evaluated;
            ``border`` keeps it and fills up.
    """
    crop = target.crop_pct if resize == "center" else 1.0
    transform = transforms_imagenet_eval(
        img_size=target.size[1:],
        crop_pct=crop,
        crop_mode=resize,
        interpolation=target.interpolation,
        mean=target.mean,
        std=target.std,
        use_prefetcher=True,  # leaves uint8; normalised is the batch, on the device
    )
    return lambda image: torch.as_tensor(np.asarray(transform(image)))


def decode(encoded: Encoded, channels: int, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    """Decode an image and bring it to the model's size.

    Whatever the file holds, what comes out is upright and in 8 bits a channel: EXIF orientation is
    applied, 16 bits are scaled down, palettes are looked up, what is transparent lies on white.

    Args:
        encoded: The image.
        channels: 3 for colours, 1 for grey.
        transform: From :func:`resizing`.

    Returns:
        uint8, ``(channels, height, width)``.

    Raises:
        Unreadable: If it cannot be decoded.

    Example:
        >>> target = InputFormat((3, 4, 4), (0.5,) * 3, (0.5,) * 3)
        >>> decode(Image.new("L", (8, 6), 51), 3, resizing(target, "squash"))[:, 0, 0].tolist()
        [51, 51, 51]
    """
    with _opened(encoded) as image:
        plain = _plain(image)
    return transform(plain.convert("L" if channels == 1 else "RGB"))


def fault(encoded: Encoded) -> str | None:
    """Why an image cannot be decoded; None if it can."""
    try:
        with _opened(encoded, quick=True) as image:
            _plain(image)
    except Unreadable as error:
        return str(error)
    return None


def check_channels(target: InputFormat) -> None:
    """Refuse models that want neither colours nor grey.

    Raises:
        TaskError: If it is one.
    """
    if target.size[0] not in (1, 3):
        raise TaskError(
            f"Image files have 1 or 3 channels, but the backbone wants {target.size[0]}; change "
            "in_chans in backbone.kwargs, or use an .npz file."
        )


@contextlib.contextmanager
def _opened(encoded: Encoded, *, quick: bool = False) -> Iterator[Image.Image]:
    try:
        if isinstance(encoded, Image.Image):
            yield encoded
            return
        with Image.open(io.BytesIO(encoded)) as image:
            if quick:
                image.draft(None, (1, 1))  # of a JPEG every byte is read, but an eighth is computed
            image.load()
            yield image
    except UnidentifiedImageError:
        raise Unreadable("it is no image of a known format" if encoded else "it is empty") from None
    # Pillow's decoders raise whatever comes to their minds where a file is damaged.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise Unreadable(str(error).splitlines()[0] or type(error).__name__) from None


def _plain(image: Image.Image) -> Image.Image:
    """Upright, opaque, 8 bits a channel."""
    with contextlib.suppress(Exception):  # damaged metadata does no harm to the pixels
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off instead of scale
        pixels = np.asarray(image).astype(np.float64) * (255 / 65535)
        return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
    if image.mode == "F":
        raise Unreadable("its pixels are floating-point numbers without a range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image
