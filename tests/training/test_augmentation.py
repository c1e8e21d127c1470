import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from glora_automl.training._augmentation import augment


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.5)
)
def test_augment_with_shift_moves_images_and_repeats_edges(count, channels, height, width, shift):
    images = torch.randn(count, channels, height, width)
    augmented = augment(images, shift=shift)
    up, left = int(shift * height), int(shift * width)
    padded = F.pad(images, (left, left, up, up), mode="replicate")
    for before, after in zip(padded, augmented, strict=True):
        windows = [
            before[:, i : i + height, j : j + width]
            for i in range(2 * up + 1)
            for j in range(2 * left + 1)
        ]
        assert any(torch.equal(after, window) for window in windows)


def test_augment_with_shift_draws_every_shift():
    images = torch.arange(8.0).expand(400, 1, 8, 8)
    column = augment(images, shift=0.25)[:, 0, 0, 4]
    assert sorted(set(column.tolist())) == [2, 3, 4, 5, 6]


def test_augment_with_hflip_mirrors_half_of_the_images():
    images = torch.randn(1, 2, 3, 5).expand(400, 2, 3, 5)
    augmented = augment(images, hflip=True)
    mirrored = [torch.equal(image, images[0].flip(-1)) for image in augmented]
    unchanged = [torch.equal(image, images[0]) for image in augmented]
    assert sum(mirrored) + sum(unchanged) == 400
    assert 150 < sum(mirrored) < 250


def test_augment_without_shift_and_hflip_returns_the_same_tensor():
    images = torch.randn(2, 1, 4, 4)
    assert augment(images) is images


@pytest.mark.parametrize("hflip", [False, True])
def test_augment_with_the_same_seed_gives_the_same_images(hflip):
    images = torch.randn(5, 3, 8, 8)
    augmented = []
    for _ in range(2):
        torch.manual_seed(3)
        augmented.append(augment(images, shift=0.2, hflip=hflip))
    assert torch.equal(*augmented)
