"""Decoding of image files to the pixels of a model's input format."""

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

from glora_automl._messages import one_line
from glora_automl.errors import TaskError
from glora_automl.tasks._images import InputFormat

__all__ = ["CropMode", "Encoded", "Unreadable", "decode", "decoding_error", "resizing"]

CropMode = Literal["squash", "center", "border"]
"""Way of resizing an image to the model's size; timm's ``crop_mode``."""

Encoded = bytes | Image.Image
"""Image as its source holds it: the bytes of a file, or already decoded."""


class Unreadable(Exception):
    """Image that cannot be read or decoded; the message gives the reason."""


def resizing(target: InputFormat, crop_mode: CropMode) -> Callable[[Image.Image], Tensor]:
    """Return timm's evaluation transform up to normalisation: resized uint8, channels first.

    Args:
        target: Input format of the model.
        crop_mode: ``squash`` resizes the whole image to the model's size, as is usual on VTAB.
            ``center`` keeps the aspect ratio and crops with ``target.crop_pct``. ``border`` keeps
            the aspect ratio and pads.
    """
    transform = transforms_imagenet_eval(
        img_size=target.size[1:],
        crop_pct=target.crop_pct if crop_mode == "center" else 1.0,
        crop_mode=crop_mode,
        interpolation=target.interpolation,
        mean=target.mean,
        std=target.std,
        use_prefetcher=True,  # returns uint8; the batch is normalised on the device
    )
    return lambda image: torch.as_tensor(np.asarray(transform(image)))


def decode(encoded: Encoded, channels: int, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    """Decode an image and resize it.

    EXIF orientation is applied, 16 bits are scaled to 8, palettes are looked up, and transparent
    pixels are put on white.

    Args:
        encoded: The image.
        channels: 3 for colour, 1 for grey.
        transform: Transform from :func:`resizing`.

    Returns:
        uint8, ``(channels, height, width)``.

    Raises:
        Unreadable: If the image cannot be decoded.

    Example:
        >>> target = InputFormat((3, 4, 4), (0.5,) * 3, (0.5,) * 3)
        >>> decode(Image.new("L", (8, 6), 51), 3, resizing(target, "squash"))[:, 0, 0].tolist()
        [51, 51, 51]
    """
    with _open(encoded) as image:
        plain = _to_8_bits(image)
    return transform(plain.convert("L" if channels == 1 else "RGB"))


def decoding_error(encoded: Encoded) -> str | None:
    """Return the reason that an image cannot be decoded, or None."""
    try:
        with _open(encoded, quick=True) as image:
            _to_8_bits(image)
    except Unreadable as error:
        return str(error)
    return None


def check_channels(target: InputFormat) -> None:
    """Check that a model takes colour or grey images.

    Raises:
        TaskError: If it takes other than 1 or 3 channels.
    """
    if target.size[0] not in (1, 3):
        raise TaskError(
            f"The backbone must take 1 or 3 channels for image files, got {target.size[0]}. "
            "Set in_chans in `backbone.kwargs`, or use an .npz file."
        )


@contextlib.contextmanager
def _open(encoded: Encoded, *, quick: bool = False) -> Iterator[Image.Image]:
    try:
        if isinstance(encoded, Image.Image):
            yield encoded
            return
        with Image.open(io.BytesIO(encoded)) as image:
            if quick:
                # A JPEG is still read to its last byte, but decoded at an eighth of its size.
                image.draft(None, (1, 1))
            image.load()
            yield image
    except UnidentifiedImageError:
        reason = "it has no known image format" if encoded else "it is empty"
        raise Unreadable(reason) from None
    # Pillow's decoders raise all of these on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise Unreadable(one_line(error)) from None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return the image upright, opaque and with 8 bits per channel."""
    with contextlib.suppress(Exception):  # damaged EXIF data does not affect the pixels
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip them
        pixels = np.asarray(image).astype(np.float64) * (255 / 65535)
        return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
    if image.mode == "F":
        raise Unreadable("its pixels are floating-point numbers without a range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image
