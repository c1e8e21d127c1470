import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from glora_automl.estimator._pixels import Pixels, check_pixel_parameters, infer_shape

ROWS = hnp.arrays(
    np.float32, (3, 4), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
)


@given(ROWS)
def test_pixels_images_scale_smallest_to_black_and_largest_to_white(rows):
    pixels = Pixels.from_rows(rows, (2, 2, 1), None)
    images = pixels.images(rows).reshape(rows.shape)
    assert images.dtype == np.uint8
    if rows.max() > rows.min():
        assert images[rows == rows.min()].max() == 0
        assert images[rows == rows.max()].min() == 255
    else:
        assert images.max() == 0
    order = np.argsort(rows, axis=None)
    assert (np.diff(images.ravel()[order].astype(int)) >= 0).all()


@given(hnp.arrays(np.uint8, (2, 6)))
def test_pixels_images_of_uint8_are_unchanged(rows):
    pixels = Pixels.from_rows(rows, (1, 2, 3), None)
    assert (pixels.low, pixels.high) == (0.0, 255.0)
    assert (pixels.images(rows).reshape(rows.shape) == rows).all()
    assert (pixels.images(rows.astype(np.float32)).reshape(rows.shape) == rows).all()


def test_pixels_images_clip_to_range():
    pixels = Pixels.from_rows(np.array([[-1.0, 0.0, 0.5, 1.0, 7.0]]), (1, 5, 1), (0, 1))
    assert pixels.images(np.array([[-1.0, 0.0, 0.5, 1.0, 7.0]])).ravel().tolist() == [
        0, 0, 128, 255, 255
    ]  # fmt: skip


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 2))
def test_infer_shape_with_minus_one_infers_size(height, width, channels, place):
    shape = height, width, channels
    sizes = [size if i != place else -1 for i, size in enumerate(shape)]
    assert infer_shape(math.prod(shape), sizes) == shape
    assert infer_shape(math.prod(shape), shape) == shape
    assert infer_shape(height * height, None) == (height, height, 1)


@pytest.mark.parametrize(
    ("features", "shape", "words"),
    [
        (63, None, "square grey images if image_shape is None, got 63 features"),
        (63, (8, 8), "images of the image_shape (8, 8), got 63 features"),
        (10, (3, -1), "got 10 features"),
        (2, (3, -1), "got 2 features"),
    ],
)
def test_infer_shape_of_other_shape_raises(features, shape, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        infer_shape(features, shape)


@pytest.mark.parametrize("shape", [(8,), (8, 8, 1, 1), (0, 8), (-1, -1), (8.0, 8), ("8", 8)])
def test_check_pixel_parameters_with_invalid_shape_raises(shape):
    with pytest.raises(ValueError, match="'image_shape' parameter of GLoRAClassifier must be"):
        check_pixel_parameters(shape, None)


@pytest.mark.parametrize("ends", [(1,), (1, 1), (2, 1), (0, math.inf), ("0", 1), (0, 1, 2)])
def test_check_pixel_parameters_with_invalid_range_raises(ends):
    with pytest.raises(ValueError, match="'pixel_range' parameter of GLoRAClassifier must be"):
        check_pixel_parameters(None, ends)
