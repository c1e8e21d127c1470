import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from glora_automl.backbones import BackboneSettings
from glora_automl.errors import TaskError
from glora_automl.estimator._pictures import RAW, as_array, picture_shape
from glora_automl.estimator._pixels import Pixels

GREY = np.arange(3 * 8 * 6, dtype=np.uint8).reshape(3, 8, 6)
COLOR = np.stack([GREY, GREY // 2, GREY // 3], -1)


@pytest.mark.parametrize("images", [GREY, COLOR], ids=["grey", "color"])
@pytest.mark.parametrize("form", [list, tuple, pd.Series, lambda xs: [x.tolist() for x in xs]])
@pytest.mark.parametrize("fitted", [RAW, (0.0, 1.0)])
@pytest.mark.parametrize("is_fitted", [True, False])
def test_as_array_of_a_list_of_images_of_one_shape_keeps_their_values(
    images, form, fitted, is_fitted
):
    shape = 8, 6, images[0].size // 48
    found = as_array(form(list(images)), lambda: shape, fitted, is_fitted=is_fitted)
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


OTHER = {
    "grey": (GREY, (4, 5, 3)),
    "grey with an axis": (GREY[..., None], (4, 5, 3)),
    "color": (COLOR, (8, 6, 1)),
    "one row": (COLOR[:, :1], (4, 4, 3)),
    "tensor": (torch.from_numpy(GREY), (4, 5, 3)),
}


@pytest.mark.parametrize("name", OTHER)
def test_as_array_of_bytes_of_another_shape_than_the_fitted_is_resized(name):
    images, shape = OTHER[name]
    found = [as_array(x, lambda: shape, is_fitted=True) for x in (images, list(images))]
    assert found[0].shape == (3, *shape)
    assert np.array_equal(*found)
    assert np.array_equal(found[0][0], as_array(list(images)[:1], lambda: shape, is_fitted=True)[0])
    kept = as_array(images, lambda: shape)
    assert np.array_equal(kept, images)


@pytest.mark.parametrize(
    ("images", "shape", "value_range"),
    [
        (GREY / 255, (4, 4, 3), RAW),
        (GREY, (4, 4, 3), (0.0, 1.0)),
        (GREY, (4, 4, 2), RAW),
        (COLOR.transpose(0, 3, 1, 2), (8, 6, 3), RAW),
        (COLOR.reshape(3, 8, 18), (8, 6, 3), RAW),
    ],
    ids=["floats", "another range", "two channels", "channels first", "channels in the width"],
)
def test_as_array_of_other_images_than_the_fitted_keeps_their_shape(images, shape, value_range):
    for form in (images, list(images)):
        found = as_array(form, lambda: shape, value_range, is_fitted=True)
        assert np.array_equal(found.reshape(images.shape), images)


@pytest.mark.parametrize("is_fitted", [True, False])
def test_as_array_of_resized_arrays_in_another_range_raises(is_fitted):
    several, image = [GREY[0], GREY[1, :4]], Image.fromarray(GREY[0])
    for images, got in ((several, "of several sizes"), ([image, GREY[1]], "beside files")):
        with pytest.raises(ValueError, match=rf"from 0.0 to 1.0, got arrays {got}\. .*fromarray"):
            as_array(images, lambda: (8, 6, 1), (0.0, 1.0), is_fitted=is_fitted)
        pictures = [Image.fromarray(x) if isinstance(x, np.ndarray) else x for x in images]
        found = as_array(pictures, lambda: (8, 6, 1), (0.0, 1.0), is_fitted=is_fitted)
        assert np.allclose(found[0, ..., 0], GREY[0] / 255)
        assert np.array_equal(as_array(images, lambda: (8, 6, 1))[0, ..., 0], GREY[0])


GRADIENT = torch.ones(8, 6, requires_grad=True)
NO_IMAGES = {
    "gradient": ([GREY[0], GRADIENT], "got Tensor at 1: .*requires grad"),
    "tensor with gradient": (GRADIENT[None], "got Tensor: .*requires grad"),
    "sparse": ([GREY[0], torch.ones(8, 6).to_sparse()], "got Tensor at 1: .*[Ss]parse"),
    "ragged": ([[[1, 2], [3]], [[1, 2], [3, 4]]], "got list at 0: .*inhomogeneous"),
    "four axes": ([GREY[0], COLOR[:1]], r"got shape \(1, 8, 6, 3\) at 1"),
    "one axis": ([GREY[0], GREY[0, 0]], r"got shape \(6,\) at 1"),
    "number": ([GREY[0], 3], r"got shape \(\) at 1"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_as_array_of_a_list_of_other_items_raises_one_line(name):
    images, words = NO_IMAGES[name]
    with pytest.raises(ValueError, match=f"^The X of GLoRAClassifier must have.*{words}") as caught:
        as_array(images, lambda: (8, 6, 1))
    assert "\n" not in str(caught.value)


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
