"""Images that are not arrays: paths of files, Pillow images, and arrays of several sizes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from glora_automl._messages import one_line, short, shorten
from glora_automl.backbones import AUTO, BackboneSettings, create_model, input_format
from glora_automl.tasks import (
    InputFormat,
    Unreadable,
    check_channels,
    decode,
    read_image,
    resizing,
)

__all__ = ["RAW", "Shape", "as_array", "picture_shape"]

Shape = tuple[int, int, int]

RAW = (0.0, 255.0)
"""Values of black and white in files, Pillow images and uint8 arrays."""

MAX_CHANNELS = 4
"""Most channels of an image that Pillow knows."""

SIDE = 224
"""Height and width of pictures for a model whose size is not known before the search."""


def as_array(
    X: Any,
    shape: Callable[[], Shape],
    value_range: tuple[float, float] = RAW,
    *,
    is_fitted: bool = False,
) -> Any:
    """Return a list, column or frame of images as an array, and anything else as it is.

    Files, Pillow images and uint8 arrays of several sizes are resized. Arrays of one shape keep
    it, unless a classifier was fitted to another: then uint8 arrays are resized, in a list or not.
    Arrays keep their values, so they are resized only where black and white are 0 and 255.

    Args:
        X: Images in any form.
        shape: Returns height, width and channels of resized images.
        value_range: Values of black and white, which files and Pillow images get.
        is_fitted: Whether ``shape`` is that of the fitted images.

    Raises:
        ValueError: If an image cannot be read, is no image, or would be resized in another range.
        TaskError: If images that are resized would have other than 1 or 3 channels.

    Example:
        >>> as_array([np.zeros((8, 8)), np.ones((8, 8))], lambda: (4, 4, 3)).shape
        (2, 8, 8, 1)
        >>> as_array([Image.new("L", (9, 8))], lambda: (4, 4, 3)).shape
        (1, 4, 4, 3)
    """
    is_raw = value_range == RAW
    fitted = shape if is_fitted and is_raw else None
    images = X
    if hasattr(images, "columns"):  # a frame of pandas or polars
        if len(images.columns) != 1:
            return X
        images = images[images.columns[0]]
    if hasattr(images, "to_list"):
        images = images.to_list()
    if isinstance(images, Tensor):
        images = X = _converted(images)
    if isinstance(images, np.ndarray):
        if images.dtype.kind not in "OU":
            is_other = images.ndim in (3, 4) and _differs(images.shape[1:], images.dtype, fitted)
            return read_pictures(list(images), shape()) if is_other else X
        column = images.ndim == 2 and images.shape[1] == 1
        images = (images[:, 0] if column else images).tolist()
    if not isinstance(images, list | tuple) or not images:
        return X
    if any(isinstance(item, str | os.PathLike | Image.Image) for item in images):
        if not is_raw and any(_is_nested(item) for item in images):
            raise _unscaled("arrays beside files", value_range)
        pictures = read_pictures(images, shape())
        low, high = value_range
        return pictures if is_raw else low * (1 - pictures / 255) + high * (pictures / 255)
    if not any(_is_nested(item) for item in images):
        return X
    arrays = [_converted(item, f" at {place}") for place, item in enumerate(images)]
    shapes = {array.shape for array in arrays}
    wrong = next((i for i, array in enumerate(arrays) if array.ndim not in (2, 3)), None)
    if wrong is not None:
        if len(shapes) == 1:
            return X
        raise ValueError(
            "The X of GLoRAClassifier must have images (height, width) or (height, width, "
            f"channels), got shape {arrays[wrong].shape} at {wrong}. Reshape it."
        )
    form, *others = {(*found, 1)[:3] for found in shapes}
    if others and not is_raw:
        raise _unscaled("arrays of several sizes", value_range)
    if others or _differs(form, np.result_type(*arrays), fitted):
        return read_pictures(arrays, shape())
    return np.stack([array.reshape(form) for array in arrays])


def _differs(
    found: tuple[int, ...], dtype: np.dtype[Any], fitted: Callable[[], Shape] | None
) -> bool:
    """Return whether images of a shape are resized to the fitted one."""
    height, width, channels = (*found, 1)[:3]
    if fitted is None or dtype != np.uint8 or channels > MAX_CHANNELS or fitted()[2] not in (1, 3):
        return False
    # The fitted images with their channels in another axis are reshaped by mistake.
    is_reshaped = channels != fitted()[2] and height * width * channels == math.prod(fitted())
    return (height, width, channels) != fitted() and not is_reshaped


def _is_nested(item: Any) -> bool:
    """Return whether an item of a list is an array or list of more than one dimension."""
    if isinstance(item, list | tuple):
        return bool(item) and isinstance(item[0], list | tuple | np.ndarray)
    return getattr(item, "ndim", 0) > 1 and hasattr(item, "__array__")


def _converted(item: Any, place: str = "") -> np.ndarray:
    """Return an item as an array.

    Raises:
        ValueError: If it is none, such as a ragged list or a tensor that requires gradients.
    """
    try:
        return np.asarray(item)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            "The X of GLoRAClassifier must have images that numpy.asarray takes, got "
            f"{type(item).__name__}{place}: {shorten(one_line(error), 150)}. Convert it to an "
            "array."
        ) from None


def _unscaled(got: str, value_range: tuple[float, float]) -> ValueError:
    low, high = value_range
    return ValueError(
        f"The X of GLoRAClassifier must have files or arrays of one size if pixels are from {low} "
        f"to {high}, got {got}. Convert arrays of pixels from 0 to 255 by PIL.Image.fromarray."
    )


def picture_shape(settings: BackboneSettings) -> Shape:
    """Return height, width and channels of a model's images.

    Nothing but a configuration is downloaded. Of a model that is chosen in the search, colour
    images of ``SIDE`` are assumed.

    Raises:
        TaskError: If the model cannot be created.

    Example:
        >>> picture_shape(BackboneSettings(model="test_vit"))
        (160, 160, 3)
        >>> picture_shape(BackboneSettings(model="test_vit", kwargs={"img_size": [32, 64]}))
        (32, 64, 3)
    """
    if settings.model == AUTO:
        return SIDE, SIDE, 3
    model = create_model(settings.model_copy(update={"pretrained": False}), 2, seed=0)
    channels, height, width = input_format(model, settings).size
    return height, width, channels


def read_pictures(pictures: Sequence[Any], shape: Shape) -> np.ndarray:
    """Return pictures as arrays of one size, cropped as timm does for evaluation.

    Args:
        pictures: Paths, Pillow images, or uint8 arrays ``(height, width)`` or ``(height, width,
            channels)``.
        shape: Height, width and channels of the result.

    Returns:
        uint8, ``(n, height, width, channels)``.

    Raises:
        ValueError: If a picture cannot be read.
        TaskError: If there are other than 1 or 3 channels.
    """
    height, width, channels = shape
    target = InputFormat((channels, height, width), (0.5,) * channels, (0.5,) * channels)
    check_channels(target)
    read = partial(decode, channels=channels, transform=resizing(target, "center"))
    found = np.empty((len(pictures), height, width, channels), np.uint8)
    for place, picture in enumerate(pictures):
        try:
            found[place] = read(_encoded(picture)).permute(1, 2, 0).numpy()
        except (Unreadable, TypeError, ValueError) as error:
            raise ValueError(
                "The X of GLoRAClassifier must have readable images, got "
                f"{short(picture)} at {place}: {error}. Remove it from X."
            ) from None
    return found


def _encoded(picture: Any) -> bytes | Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8:
            raise ValueError(f"arrays that are resized must be uint8, got {picture.dtype}")
        is_grey = picture.ndim == 3 and picture.shape[2] == 1
        return Image.fromarray(picture[:, :, 0] if is_grey else picture)
    if isinstance(picture, str | os.PathLike):
        return read_image(os.fspath(picture))
    raise TypeError(f"it is of type {type(picture).__name__}")
