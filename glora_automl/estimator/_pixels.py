"""Images from rows of numbers: their shape and value range."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from glora_automl.estimator._pictures import RAW, Shape, as_array

__all__ = [
    "Pixels",
    "check_pixel_parameters",
    "checked_rows",
    "checked_weights",
    "infer_shape",
]

_MISSING = object()  # None is a value that callers may pass for labels


class Pixels(NamedTuple):
    """Conversion of rows of numbers to images.

    Attributes:
        shape: Height, width and channels.
        low: Value of black.
        high: Value of white.
    """

    shape: Shape
    low: float
    high: float

    @classmethod
    def from_rows(
        cls, rows: np.ndarray, shape: Shape, value_range: Sequence[float] | None
    ) -> Pixels:
        """Return the conversion for training images.

        Args:
            rows: The images, ``(n, height * width * channels)``.
            shape: Height, width and channels.
            value_range: Values of black and white. None is 0 and 255 for uint8, else the smallest
                and the largest value of ``rows``.
        """
        if value_range is not None:
            low, high = map(float, value_range)
        elif rows.dtype == np.uint8:
            low, high = 0.0, 255.0
        else:
            low, high = float(rows.min()), float(rows.max())
        return cls(shape, low, high)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Convert rows ``(n, height * width * channels)`` to uint8 images.

        Values are scaled from ``low`` and ``high`` to 0 and 255, rounded and clipped.

        Returns:
            Images ``(n, height, width, channels)``.

        Example:
            >>> pixels = Pixels((1, 4, 1), low=0.0, high=16.0)
            >>> pixels.images(np.array([[0.0, 8.0, 16.0, 99.0]]))[0, 0, :, 0].tolist()
            [0, 128, 255, 255]
        """
        if rows.dtype != np.uint8 or (self.low, self.high) != (0.0, 255.0):
            # Halved first, because the range of two floats may overflow.
            width = self.high / 2 - self.low / 2
            # Images of one value are black.
            scaled = (rows.astype(np.float64) / 2 - self.low / 2) / (width or np.inf) * 255
            rows = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        return rows.reshape(len(rows), *self.shape)


def check_pixel_parameters(
    shape: Sequence[int] | None, value_range: Sequence[float] | None
) -> None:
    """Check ``image_shape`` and ``pixel_range`` of a classifier.

    Raises:
        ValueError: If one of them is malformed.
    """
    rule = "The {!r} parameter of GLoRAClassifier must be {}, got {!r}."
    if shape is not None:
        sizes = [size for size in shape if isinstance(size, Integral) and (size > 0 or size == -1)]
        if len(sizes) not in (2, 3) or len(sizes) < len(shape) or sizes.count(-1) > 1:
            form = "(height, width) or (height, width, channels) with at most one -1"
            raise ValueError(rule.format("image_shape", form, shape))
    if value_range is not None:
        ends = [end for end in value_range if isinstance(end, Real) and math.isfinite(end)]
        if len(ends) != 2 or len(value_range) != 2 or not ends[0] < ends[1]:
            raise ValueError(rule.format("pixel_range", "two increasing numbers", value_range))


def checked_rows(
    estimator: BaseEstimator,
    X: Any,
    y: Any = _MISSING,
    *,
    resized: Callable[[], Shape],
    fitted: Pixels | None = None,
) -> tuple[np.ndarray, Any, Shape | None]:
    """Check images as scikit-learn does and return them as rows.

    Args:
        estimator: The classifier; a fit stores the number of features in it.
        X: Images.
        y: Their labels, in a fit.
        resized: Returns height, width and channels that files and images of several sizes get.
        fitted: Conversion of the fitted images; None in a fit.

    Returns:
        Rows ``(n, height * width * channels)``, labels, and the shape of images that are not rows.

    Raises:
        ValueError: If ``X`` or ``y`` is malformed.
    """
    shape: Shape | None = None
    given = estimator.pixel_range if fitted is None else fitted[1:]
    low, high = RAW if given is None else map(float, given)
    X = as_array(X, resized, (low, high), is_fitted=fitted is not None)
    if getattr(X, "ndim", 0) > 2:
        X = check_array(X, allow_nd=True, input_name="X", estimator=estimator)
        if X.ndim > 4:
            raise ValueError(
                "The X of GLoRAClassifier must have the shape (n, height, width, channels), "
                f"(n, height, width) or (n, features), got {X.shape}."
            )
        if X.shape[1] in (1, 3) and X.ndim == 4 and X.shape[3] not in (1, 3):
            raise ValueError(
                "The X of GLoRAClassifier must have its channels last, (n, height, width, "
                f"channels), got {X.shape}. Use X.transpose(0, 2, 3, 1)."
            )
        height, width, channels = (*X.shape[1:], 1)[:3]
        shape = height, width, channels
        X = X.reshape(len(X), -1)
    if y is _MISSING:
        return validate_data(estimator, X, reset=False), None, shape
    rows, labels = validate_data(estimator, X, y)
    return rows, labels, shape


def checked_weights(sample_weight: Any, n_images: int) -> np.ndarray:
    """Return the weight of each image, as scikit-learn checks it.

    Raises:
        ValueError: If there is not one number for each image, or none is above 0.

    Example:
        >>> checked_weights([1, 0, 2], 3), checked_weights(2, 2)
        (array([1., 0., 2.]), array([2., 2.]))
    """
    if isinstance(sample_weight, Real):
        sample_weight = np.full(n_images, sample_weight)
    weights: np.ndarray = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
    )
    if weights.shape != (n_images,) or (weights < 0).any() or not (weights > 0).any():
        raise ValueError(
            f"sample_weight must have {n_images} weights, one per image, none below zero and not "
            f"all zero, got shape {weights.shape}."
        )
    return weights


def infer_shape(n_features: int, shape: Sequence[int] | None) -> Shape:
    """Return the shape of images in rows.

    Args:
        n_features: Numbers per row.
        shape: ``(height, width)`` or ``(height, width, channels)``. One of them may be -1 and is
            inferred. None is a square of grey pixels.

    Raises:
        ValueError: If rows cannot have the shape.

    Example:
        >>> infer_shape(64, None), infer_shape(96, (4, -1, 3)), infer_shape(5, (1, -1))
        ((8, 8, 1), (4, 8, 3), (1, 5, 1))
    """
    if shape is None:
        side = math.isqrt(n_features)
        if side * side != n_features:
            raise ValueError(
                "The rows of X must be square grey images if image_shape is None, got "
                f"{n_features} features. Set image_shape, or reshape X to (n, height, width, "
                "channels)."
            )
        return side, side, 1
    sizes = tuple(int(size) for size in shape)
    height, width, channels = sizes if len(sizes) == 3 else (*sizes, 1)
    known = math.prod(size for size in (height, width, channels) if size != -1)
    rest = n_features // known
    found = tuple(rest if size == -1 else size for size in (height, width, channels))
    if math.prod(found) != n_features:
        raise ValueError(
            f"The rows of X must be images of the image_shape {tuple(shape)}, got "
            f"{n_features} features. Change image_shape."
        )
    return found[0], found[1], found[2]
