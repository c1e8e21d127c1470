"""Images that are not arrays: paths of files, Pillow images, and arrays of several sizes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from glora_automl._messages import short
from glora_automl.backbones import AUTO, BackboneSettings, create_model, input_format
from glora_automl.tasks import (
    InputFormat,
    Unreadable,
    check_channels,
    decode,
    read_image,
    resizing,
)

__all__ = ["Shape", "as_array", "picture_shape"]

Shape = tuple[int, int, int]

SIDE = 224
"""Height and width of pictures for a model whose size is not known before the search."""


def as_array(
    X: Any, shape: Callable[[], Shape], fitted_range: tuple[float, float] | None = None
) -> Any:
    """Return a list, column or frame of images as an array, and anything else as it is.

    Files, Pillow images and uint8 arrays of several sizes are resized. Arrays of one shape keep
    it, unless a classifier was fitted to another.

    Args:
        X: Images in any form.
        shape: Returns height, width and channels of resized images.
        fitted_range: Values of black and white in the fitted images, which files and Pillow images
            get. None is in a fit.

    Raises:
        ValueError: If an image cannot be read.
        TaskError: If images that are resized would have other than 1 or 3 channels.

    Example:
        >>> as_array([np.zeros((8, 8)), np.ones((8, 8))], lambda: (4, 4, 3)).shape
        (2, 8, 8, 1)
        >>> as_array([Image.new("L", (9, 8))], lambda: (4, 4, 3)).shape
        (1, 4, 4, 3)
    """
    images = X
    if hasattr(images, "columns"):  # a frame of pandas or polars
        if len(images.columns) != 1:
            return X
        images = images[images.columns[0]]
    if hasattr(images, "to_list"):
        images = images.to_list()
    if isinstance(images, np.ndarray):
        if images.dtype.kind not in "OU":
            return X
        column = images.ndim == 2 and images.shape[1] == 1
        images = (images[:, 0] if column else images).tolist()
    if not isinstance(images, list | tuple) or not images:
        return X
    if any(isinstance(item, str | os.PathLike | Image.Image) for item in images):
        pictures = read_pictures(images, shape())
        if fitted_range is None or fitted_range == (0, 255):
            return pictures
        low, high = fitted_range
        return low * (1 - pictures / 255) + high * (pictures / 255)
    arrays = [np.asarray(item) for item in images if _is_nested(item)]
    shapes = {(*array.shape, 1)[:3] for array in arrays if array.ndim in (2, 3)}
    if len(arrays) < len(images) or not shapes:
        return X
    is_other = fitted_range is not None and shapes != {shape()} and arrays[0].dtype == np.uint8
    if len(shapes) > 1 or is_other:
        return read_pictures(arrays, shape())
    return np.stack([array.reshape(*shapes) for array in arrays])


def _is_nested(item: Any) -> bool:
    """Return whether an item of a list is an array or list of more than one dimension."""
    if isinstance(item, list | tuple):
        return bool(item) and isinstance(item[0], list | tuple | np.ndarray)
    return getattr(item, "ndim", 0) > 1 and hasattr(item, "__array__")


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
            raise ValueError(f"arrays of several sizes must be uint8, got {picture.dtype}")
        return Image.fromarray(picture.squeeze())
    if isinstance(picture, str | os.PathLike):
        return read_image(os.fspath(picture))
    raise TypeError(f"it is of type {type(picture).__name__}")
