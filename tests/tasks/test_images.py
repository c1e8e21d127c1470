import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from glora_automl.errors import TaskError
from glora_automl.tasks import ImageSet, InputFormat, resizing
from tests.tasks.files import random_images

CPU = torch.device("cpu")
MEAN, STD = (0.2, 0.5, 0.8), (0.1, 0.5, 2.0)


def test_prepare_same_size_only_normalises():
    raw = random_images()
    x, y = raw.prepare(InputFormat((3, 8, 8), MEAN, STD), CPU)
    for channel in range(3):
        plain = (raw.images[:, channel].float() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(x[:, channel], plain)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    assert torch.equal(y, raw.labels)


def test_prepare_leaves_the_raw_images_unchanged():
    raw = random_images(1)
    before = raw.digest()
    x, _ = raw.prepare(InputFormat((3, 16, 16), MEAN, STD), CPU)
    x.zero_()
    assert raw.digest() == before


def test_prepare_grey_images_are_repeated_over_the_channels():
    grey = random_images(1)
    x, _ = grey.prepare(InputFormat((3, 8, 8), MEAN, STD), CPU)
    assert x.shape == (4, 3, 8, 8)
    back = x * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    for channel in range(3):
        torch.testing.assert_close(back[:, channel], grey.images[:, 0].float() / 255)


@pytest.mark.parametrize("size", [(16, 16), (4, 4), (8, 12)])
def test_prepare_other_size_resizes_and_clamps(size):
    sharp = ImageSet(
        torch.tensor([0, 255], dtype=torch.uint8)
        .repeat_interleave(4)
        .expand(2, 3, 8, 8)
        .contiguous(),
        torch.tensor([0, 1]),
    )
    x, _ = sharp.prepare(InputFormat((3, *size), (0.0,) * 3, (1.0,) * 3), CPU)
    assert x.shape == (2, 3, *size)
    # The left is black and the right white; bicubic overshoot is clamped.
    assert x.min() >= 0
    assert x.max() <= 1
    assert x[..., 0].max() < 0.1
    assert x[..., -1].min() > 0.9


def test_prepare_smaller_size_is_antialiased():
    raw = random_images(size=(64, 64))
    x, _ = raw.prepare(InputFormat((3, 8, 8), (0.0,) * 3, (1.0,) * 3), CPU)
    # Means over random pixels vary little; single pixels would vary much.
    assert x.std() < 0.1
    mean = F.avg_pool2d(raw.images.float() / 255, 8)
    assert torch.corrcoef(torch.stack([x.flatten(), mean.flatten()]))[0, 1] > 0.8


def test_prepare_flat_image_stays_flat():
    flat = ImageSet(torch.full((1, 1, 8, 8), 51, dtype=torch.uint8), torch.tensor([0]))
    x, _ = flat.prepare(InputFormat((1, 13, 5), (0.0,), (1.0,)), CPU)
    torch.testing.assert_close(x, torch.full((1, 1, 13, 5), 0.2))


@pytest.mark.parametrize(("channels", "expected"), [(3, 1), (2, 3), (4, 3)])
def test_prepare_other_number_of_channels_raises(channels, expected):
    target = InputFormat((expected, 8, 8), (0.5,) * expected, (0.5,) * expected)
    with pytest.raises(TaskError, match=rf"{expected} channels.*got {channels}"):
        random_images(channels).prepare(target, CPU)


def test_digest_depends_on_pixels_labels_and_shape():
    a = random_images()
    altered = a.images.clone()
    altered[2, 1, 3, 3] ^= 1
    others = [
        ImageSet(altered, a.labels),
        ImageSet(a.images, 1 - a.labels),
        ImageSet(a.images.flip(0), a.labels),
        ImageSet(a.images.reshape(4, 3, 4, 16), a.labels),
    ]
    assert len({a.digest(), *(other.digest() for other in others)}) == 5
    assert ImageSet(a.images.clone(), a.labels.clone()).digest() == a.digest()
    assert len(a) == 4


def test_prepare_large_set_normalises_per_batch(monkeypatch):
    raw = random_images(1, count=9)
    target = InputFormat((3, 16, 16), MEAN, STD)
    whole, _ = raw.prepare(target, CPU)
    monkeypatch.setattr("glora_automl.tasks._images.MAX_NORMALIZED_BYTES", 100)
    lazy, labels = raw.prepare(target, CPU)
    assert isinstance(whole, torch.Tensor)
    assert not isinstance(lazy, torch.Tensor)
    assert (len(lazy), lazy.device) == (9, CPU)
    assert torch.equal(labels, raw.labels)
    for index in (slice(2, 5), slice(0, 99), torch.tensor([8, 0, 0])):
        torch.testing.assert_close(lazy[index], whole[index])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_prepare_resizes_arrays_as_image_files_are(interpolation):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    target = InputFormat((3, 24, 24), (0.5,) * 3, (0.5,) * 3, interpolation)
    images = ImageSet(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.zeros(2).long())
    prepared = images.prepare(target, torch.device("cpu"))[0][:]
    transform = resizing(target, "squash")
    files = torch.stack([transform(Image.fromarray(image)) for image in pixels])
    assert (prepared - (files / 255 - 0.5) / 0.5).abs().mean() < 0.01
