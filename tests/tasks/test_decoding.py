import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval

from glora_automl.errors import TaskError
from glora_automl.tasks import InputFormat, check_value_range
from glora_automl.tasks._decoding import (
    Unreadable,
    check_channels,
    decode,
    image_suffixes,
    inspect,
    resizing,
)
from tests.tasks.files import picture

SAME = InputFormat((3, 20, 24), (0.5,) * 3, (0.5,) * 3)


def encoded(image, kind="png", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data, target=SAME, crop_mode="squash"):
    """Decoded, height by width by channels."""
    return decode(data, target.size[0], resizing(target, crop_mode)).permute(1, 2, 0).numpy()


FILES = {kind: encoded(picture(3, 0), kind) for kind in ("png", "jpeg", "gif", "bmp", "tiff")}


@pytest.fixture
def rgb():
    return picture(3, 0)


def test_decode_colour_image_keeps_its_pixels(rgb):
    out = decode(encoded(rgb), 3, resizing(SAME, "squash"))
    assert out.dtype == torch.uint8
    assert out.shape == (3, 20, 24)
    assert (pixels(encoded(rgb)) == np.asarray(rgb)).all()
    assert (pixels(rgb) == np.asarray(rgb)).all()


def test_decode_other_number_of_channels_converts_colour_and_grey(rgb):
    grey = rgb.convert("L")
    assert (pixels(encoded(grey)) == np.asarray(grey)[..., None]).all()
    one = InputFormat((1, 20, 24), (0.5,), (0.5,))
    assert (pixels(encoded(rgb), one)[..., 0] == np.asarray(grey)).all()


def test_decode_16_bit_image_is_scaled_to_8_bits(rgb):
    grey = np.asarray(rgb.convert("L"))
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    assert wide.mode.startswith("I")
    assert (pixels(encoded(wide)) == grey[..., None]).all()
    assert (pixels(encoded(wide, "tiff")) == grey[..., None]).all()


def test_decode_cmyk_jpeg_keeps_its_colours():
    red = Image.new("RGB", (24, 20), (250, 10, 10)).convert("CMYK")
    out = pixels(encoded(red, "jpeg", quality=100)).mean((0, 1))
    assert np.abs(out - [250, 10, 10]).max() < 6


def test_decode_palette_image_looks_up_its_colours(rgb):
    palette = rgb.quantize(64)
    assert (pixels(encoded(palette)) == np.asarray(palette.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_decode_transparent_pixels_become_white(mode):
    image = Image.new("RGBA", (24, 20), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 12, 20))
    data = encoded(image if mode == "RGBA" else image.convert(mode))
    out = pixels(data)
    assert (out[:, :12] == 0).all()
    assert (out[:, 12:] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_exif_orientation_is_applied(orientation):
    upright = Image.new("L", (24, 20), 0)
    upright.paste(255, (0, 0, 6, 5))  # the upper left corner is white
    inverse = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = upright if inverse is None else upright.transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = pixels(encoded(stored, "png", exif=exif))[..., 0]
    assert (out == np.asarray(upright)).all()


def test_decode_1_bit_image_is_black_and_white(rgb):
    out = pixels(encoded(rgb.convert("1")))
    assert set(np.unique(out)) == {0, 255}


@pytest.mark.parametrize("crop_mode", ["squash", "center", "border"])
def test_resizing_equals_timms_evaluation_transform(crop_mode):
    image = picture(5, 1, size=(60, 31))
    target = InputFormat((3, 16, 16), (0.1, 0.2, 0.3), (1.0,) * 3, "bilinear", 0.8)
    transform = transforms_imagenet_eval(
        img_size=(16, 16),
        crop_pct=0.8 if crop_mode == "center" else 1.0,
        crop_mode=crop_mode,
        interpolation="bilinear",
        mean=target.mean,
        std=target.std,
    )
    normalised = pixels(encoded(image), target, crop_mode) / 255 - target.mean
    expected = transform(image).permute(1, 2, 0).numpy()
    assert np.abs(normalised - expected).max() < 1e-6


def test_resizing_squash_keeps_the_whole_image_and_center_crops():
    image = Image.new("L", (64, 16), 0)
    image.paste(255, (0, 0, 8, 16))
    target = InputFormat((3, 16, 16), (0.5,) * 3, (0.5,) * 3)
    assert pixels(encoded(image), target)[8, 0].mean() > 200
    assert pixels(encoded(image), target, "center").max() == 0
    assert pixels(encoded(image), target, "border")[0].tolist() == [[128] * 3] * 16


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"no image", "no known image format"),
        (encoded(picture(1, 0), "jpeg")[:-40], "truncated"),
        (encoded(picture(1, 0))[:-40], "truncated"),
        (encoded(Image.new("F", (4, 4), 0.5), "tiff"), "without a range"),
    ],
)
def test_decode_damaged_file_raises_the_reason(data, reason):
    with pytest.raises(Unreadable, match=reason):
        inspect(data)
    with pytest.raises(Unreadable, match=reason):
        pixels(data)


@pytest.mark.parametrize("position", [30, 60, 90])
def test_decode_flipped_byte_decodes_or_raises_unreadable(position):
    data = bytearray(encoded(picture(1, 0)))
    data[position % len(data)] ^= 0xFF
    try:
        assert pixels(bytes(data)).shape == (20, 24, 3)
    except Unreadable as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_inspect_copies_in_lossless_formats_have_one_digest(rgb):
    first = inspect(encoded(rgb))
    for other in (rgb, encoded(rgb, "bmp"), encoded(rgb, "png", compress_level=0)):
        assert inspect(other) == first
    assert inspect(encoded(rgb, "jpeg")).digest != first.digest
    assert inspect(encoded(rgb.resize((20, 24)))).digest != first.digest
    assert first.peak == np.asarray(rgb).max()


def test_decode_value_range_scales_12_bit_and_float_images(rgb):
    grey = np.asarray(rgb.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 16)
    transform = resizing(SAME, "squash")
    assert inspect(encoded(deep)).peak <= 16
    out = decode(encoded(deep), 3, transform, (0.0, 4080.0)).permute(1, 2, 0).numpy()
    assert (out == grey[..., None]).all()
    real = Image.fromarray(grey.astype(np.float32) / 255 - 1)
    out = decode(encoded(real, "tiff"), 3, transform, (-1.0, 0.0)).permute(1, 2, 0).numpy()
    assert (out == grey[..., None]).all()
    assert (
        pixels(encoded(rgb)) == decode(encoded(rgb), 3, transform, (0, 9)).permute(1, 2, 0).numpy()
    ).all()


@pytest.mark.parametrize(
    "value", [[0], [0, 0], [1, 0], [0, float("nan")], [0, float("inf")], [False, True], "01", 4095,
              [0, 10**400], {"a": 1}, ["0", "1"]]
)  # fmt: skip
def test_check_value_range_of_anything_else_raises(value):
    with pytest.raises(ValueError, match="values of black and white"):
        check_value_range(value)


def test_decode_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (24, 20), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert (pixels(data) == [255, 0, 0]).all()


def test_decode_postscript_is_no_image_format(rgb):
    """Ghostscript would run it."""
    with pytest.raises(Unreadable, match="no known image format"):
        inspect(encoded(rgb, "eps"))
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5"} & image_suffixes()
    assert {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".tif", ".webp"} <= image_suffixes()


@given(st.binary(max_size=200), st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_inspect_any_bytes_give_a_picture_or_a_short_reason(noise, place):
    for kind in ("png", "jpeg", "gif", "bmp", "tiff"):
        data = FILES[kind]
        try:
            inspect(data[:place] + noise + data[place + len(noise) :])
        except Unreadable as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert len(str(error)) <= 210  # noqa: PT017


def test_check_channels_model_of_4_channels_raises():
    with pytest.raises(TaskError, match="1 or 3 channels for image files, got 4"):
        check_channels(InputFormat((4, 8, 8), (0.5,) * 4, (0.5,) * 4))


def test_decode_image_so_thin_that_a_side_vanishes_is_unreadable():
    transform = resizing(InputFormat((3, 8, 8), (0.5,) * 3, (0.5,) * 3), "border")
    with pytest.raises(Unreadable):
        decode(encoded(Image.new("RGB", (700, 1))), 3, transform)
