import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from glora_automl.training._augmentation import augmented


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.5)
)
def test_each_image_is_moved_by_itself_and_edges_repeat(count, channels, height, width, shift):
    images = torch.randn(count, channels, height, width)
    found = augmented(images, shift=shift)
    up, left = int(shift * height), int(shift * width)
    padded = F.pad(images, (left, left, up, up), mode="replicate")
    for before, after in zip(padded, found, strict=True):
        windows = [
            before[:, i : i + height, j : j + width]
            for i in range(2 * up + 1)
            for j in range(2 * left + 1)
        ]
        assert any(torch.equal(after, window) for window in windows)


def test_all_shifts_happen_and_images_differ():
    images = torch.arange(8.0).expand(400, 1, 8, 8)
    found = augmented(images, shift=0.25)[:, 0, 0, 4]
    assert sorted(set(found.tolist())) == [2, 3, 4, 5, 6]


def test_half_of_the_images_are_mirrored():
    images = torch.randn(1, 2, 3, 5).expand(400, 2, 3, 5)
    found = augmented(images, hflip=True)
    mirrored = [torch.equal(image, images[0].hflip(-1)) for image in found]
    kept = [torch.equal(image, images[0]) for image in found]
    assert sum(mirrored) + sum(kept) == 400
    assert 150 < sum(mirrored) < 250


def test_nothing_to_do_is_no_copy():
    images = torch.randn(2, 1, 4, 4)
    assert augmented(images) is images


@pytest.mark.parametrize("hflip", [False, True])
def test_the_same_seed_gives_the_same_images(hflip):
    images = torch.randn(5, 3, 8, 8)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(augmented(images, shift=0.2, hflip=hflip))
    assert torch.equal(*found)
