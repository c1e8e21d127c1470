import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glora_automl.backbones import BackboneSettings
from glora_automl.errors import TaskError
from glora_automl.estimator._pictures import as_array, picture_shape
from glora_automl.estimator._pixels import Pixels

GREY = np.arange(3 * 8 * 6, dtype=np.uint8).reshape(3, 8, 6)
COLOR = np.stack([GREY, GREY // 2, GREY // 3], -1)


@pytest.mark.parametrize("images", [GREY, COLOR], ids=["grey", "color"])
@pytest.mark.parametrize("form", [list, tuple, pd.Series, lambda xs: [x.tolist() for x in xs]])
@pytest.mark.parametrize("fitted", [(0, 255), (0, 1), None])
def test_as_array_of_a_list_of_images_of_one_shape_keeps_their_values(images, form, fitted):
    found = as_array(form(list(images)), lambda: (8, 6, images[0].size // 48), fitted)
    assert found.shape == (3, 8, 6, images[0].size // 48)
    assert np.array_equal(found.reshape(images.shape), images)


@pytest.mark.parametrize("images", [[GREY[0], GREY[1, :4]], [Image.fromarray(i) for i in COLOR]])
@pytest.mark.parametrize("shape", [(4, 6, 1), (5, 4, 3)])
def test_as_array_of_pictures_has_the_shape(images, shape):
    found = as_array(images, lambda: shape)
    assert (found.dtype, found.shape) == (np.uint8, (len(images), *shape))


def test_as_array_of_pictures_has_the_fitted_range():
    images = [Image.fromarray(image) for image in GREY]
    found = as_array(images, lambda: (8, 6, 1), (-1.0, 1.0))
    assert np.allclose(found[..., 0], GREY / 127.5 - 1)
    restored = Pixels((8, 6, 1), -1.0, 1.0).images(found.reshape(3, -1))
    assert np.array_equal(restored[..., 0], GREY)


def test_as_array_of_another_shape_than_the_fitted_is_resized():
    assert as_array(list(GREY), lambda: (4, 4, 3), (0, 255)).shape == (3, 4, 4, 3)
    assert as_array(list(GREY / 255), lambda: (4, 4, 3), (0, 255)).shape == (3, 8, 6, 1)


@pytest.mark.parametrize("rows", [[[0.0, 1.0]], [np.zeros(3)], [], np.zeros((2, 3)), "a.png"])
def test_as_array_of_rows_returns_them(rows):
    assert as_array(rows, lambda: (4, 4, 3)) is rows


def test_as_array_of_pictures_with_two_channels_raises():
    with pytest.raises(TaskError, match="1 or 3 channels for image files, got 2"):
        as_array([Image.new("L", (8, 8))], lambda: (4, 4, 2))


@pytest.mark.parametrize(
    ("table", "shape"),
    [
        ({"model": "auto"}, (224, 224, 3)),
        ({"model": "test_vit", "kwargs": {"img_size": 32, "in_chans": 1}}, (32, 32, 1)),
        ({"model": "test_vit", "kwargs": {"img_size": [32, 48]}}, (32, 48, 3)),
        (
            {
                "model": "test_resnet",
                "kwargs": {"pretrained_cfg_overlay": {"input_size": [1, 24, 20]}},
            },
            (24, 20, 1),
        ),
    ],
)
def test_picture_shape_is_that_of_the_model(table, shape):
    assert picture_shape(BackboneSettings(**table)) == shape


def test_picture_shape_of_an_unknown_tag_raises():
    with pytest.raises(TaskError, match="timm can create"):
        picture_shape(BackboneSettings(model="vit_tiny_patch16_224.foo"))
