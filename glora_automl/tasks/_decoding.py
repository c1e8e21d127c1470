"""Decoding of image files to the pixels of a model's input format."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError, features

from glora_automl._messages import one_line
from glora_automl.errors import TaskError
from glora_automl.tasks._settings import CropMode, ValueRange

if TYPE_CHECKING:
    from torch import Tensor

    from glora_automl.tasks._images import InputFormat

__all__ = [
    "Encoded",
    "Picture",
    "Unreadable",
    "check_channels",
    "decode",
    "image_suffixes",
    "inspect",
    "resizing",
]

Encoded = bytes | Image.Image
"""Image as its source holds it: the bytes of a file, or already decoded."""


class Unreadable(Exception):
    """Image that cannot be read or decoded; the message gives the reason."""


class Picture(NamedTuple):
    """What the pixels of an image are.

    Attributes:
        digest: sha256 of size and pixels; equal for copies in any lossless format.
        peak: Largest value of a pixel, 0 to 255.
    """

    digest: bytes
    peak: int


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return the formats whose pixels Pillow decodes by itself."""
    Image.init()
    # Ghostscript would run the program that an EPS file is. MPEG and IPTC have no decoder.
    others = {"EPS", "MPEG", "IPTC"}
    optional = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
    others |= {name for name, feature in optional.items() if not features.check(feature)}
    stubs = {
        name
        for name, (kind, _) in Image.OPEN.items()
        if isinstance(kind, type) and issubclass(kind, ImageFile.StubImageFile)
    }
    return tuple(name for name in Image.OPEN if name not in others | stubs)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the lower-case file suffixes of images.

    Example:
        >>> {".jpg", ".gif", ".jfif"} <= image_suffixes(), ".eps" in image_suffixes()
        (True, False)
    """
    known = {*_formats(), "MPO"}  # multi-picture files of cameras are read as JPEG
    return frozenset(s for s, name in Image.registered_extensions().items() if name in known)


def resizing(target: InputFormat, crop_mode: CropMode) -> Callable[[Image.Image], Tensor]:
    """Return timm's evaluation transform up to normalisation: resized uint8, channels first.

    Args:
        target: Input format of the model.
        crop_mode: ``squash`` resizes the whole image to the model's size, as is usual on VTAB.
            ``center`` keeps the aspect ratio and crops with ``target.crop_pct``. ``border`` keeps
            the aspect ratio and pads.
    """
    import torch
    from timm.data.transforms_factory import transforms_imagenet_eval

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


def decode(
    encoded: Encoded,
    channels: int,
    transform: Callable[[Image.Image], Tensor],
    value_range: ValueRange = None,
) -> Tensor:
    """Decode an image and resize it.

    EXIF orientation is applied, 16 bits are scaled to 8, palettes are looked up, and transparent
    pixels are put on white. Of an animation, the first frame is taken.

    Args:
        encoded: The image.
        channels: 3 for colour, 1 for grey.
        transform: Transform from :func:`resizing`.
        value_range: Values of black and white in images of more than 8 bits.

    Returns:
        uint8, ``(channels, height, width)``.

    Raises:
        Unreadable: If the image cannot be decoded.

    Example:
        >>> from glora_automl.tasks import InputFormat
        >>> target = InputFormat((3, 4, 4), (0.5,) * 3, (0.5,) * 3)
        >>> decode(Image.new("L", (8, 6), 51), 3, resizing(target, "squash"))[:, 0, 0].tolist()
        [51, 51, 51]
    """
    plain = _decoded(encoded, value_range)
    try:
        return transform(plain.convert("L" if channels == 1 else "RGB"))
    except (ValueError, MemoryError) as error:  # so thin that a side is rounded to 0
        raise Unreadable(one_line(error)) from None


def inspect(encoded: Encoded, value_range: ValueRange = None) -> Picture:
    """Decode an image and describe its pixels.

    Raises:
        Unreadable: If the image cannot be decoded.

    Example:
        >>> inspect(Image.new("L", (8, 6), 51)).peak
        51
    """
    pixels = np.asarray(_decoded(encoded, value_range).convert("RGB"))
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.tobytes())
    return Picture(digest.digest(), int(pixels.max()))


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


def _decoded(encoded: Encoded, value_range: ValueRange) -> Image.Image:
    """Return the image with 8 bits per channel."""
    try:
        if isinstance(encoded, Image.Image):
            image = encoded
        else:
            with Image.open(io.BytesIO(encoded), formats=_formats()) as image:
                image.load()
        if not image.width * image.height:
            raise Unreadable("it has no pixels")
        return _to_8_bits(image, value_range)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        reason = "it has no known image format" if encoded else "it is empty"
        raise Unreadable(reason) from None
    except Exception as error:  # Pillow's decoders raise any exception on damaged files
        raise Unreadable(one_line(error)) from None


def _to_8_bits(image: Image.Image, value_range: ValueRange) -> Image.Image:
    """Return the image upright, opaque and with 8 bits per channel."""
    with contextlib.suppress(Exception):  # damaged EXIF data does not affect the pixels
        image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # more than 8 bits, which Pillow would clip
        if image.mode == "F" and value_range is None:
            raise Unreadable("its pixels are numbers without a range, see task.value_range")
        low, high = value_range or (0, 65535)
        pixels = (np.asarray(image).astype(np.float64) - low) * (255 / (high - low))
        return Image.fromarray(np.nan_to_num(pixels).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image
