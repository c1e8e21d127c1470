"""Images that are not arrays: paths of files, Pillow images, and arrays of several sizes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import timm
from PIL import Image

from glora_automl._messages import short
from glora_automl.tasks import InputFormat, Unreadable, decode, read_image, resizing

__all__ = ["as_pictures", "picture_size", "read_pictures"]

SIDE = 224
"""Height and width of pictures for a model whose size is not known before the search."""


def as_pictures(X: Any) -> list[Any] | None:
    """Return the pictures of a list, column or frame of paths or images; None for numbers.

    Example:
        >>> as_pictures(np.array(["a.png", "b.png"])), as_pictures([[0.0, 1.0]]) is None
        (['a.png', 'b.png'], True)
    """
    if hasattr(X, "columns"):  # a frame of pandas or polars
        if len(X.columns) != 1:
            return None
        X = X[X.columns[0]]
    if hasattr(X, "to_list"):
        X = X.to_list()
    if isinstance(X, np.ndarray):
        if X.dtype.kind not in "OU":
            return None
        X = (X[:, 0] if X.ndim == 2 and X.shape[1] == 1 else X).tolist()
    if not isinstance(X, list | tuple) or not X:
        return None
    if any(isinstance(item, str | os.PathLike | Image.Image) for item in X):
        return list(X)
    arrays = [item for item in X if isinstance(item, np.ndarray) and item.ndim in (2, 3)]
    several = len(arrays) == len(X) and len({item.shape for item in arrays}) > 1
    return list(X) if several else None


def picture_size(model: str, kwargs: dict[str, Any]) -> int:
    """Return the height and width of a timm model's images.

    Example:
        >>> picture_size("test_vit", {}), picture_size("test_vit", {"img_size": 32})
        (160, 32)
    """
    size = kwargs.get("img_size")
    if size is None:
        try:
            known = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
        except RuntimeError:  # no such tag; the creation of the model will say so
            known = None
        size = SIDE if known is None else known.input_size[1:]
    return int(size[0] if isinstance(size, Sequence) else size)


def read_pictures(pictures: Sequence[Any], shape: tuple[int, int, int]) -> np.ndarray:
    """Return pictures as arrays of one size, cropped as timm does for evaluation.

    Args:
        pictures: Paths, Pillow images, or uint8 arrays ``(height, width)`` or ``(height, width,
            channels)``.
        shape: Height, width and channels (1 or 3) of the result.

    Returns:
        uint8, ``(n, height, width, channels)``.

    Raises:
        ValueError: If a picture cannot be read.
    """
    height, width, channels = shape
    target = InputFormat((channels, height, width), (0.5,) * channels, (0.5,) * channels)
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
