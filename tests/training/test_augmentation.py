import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.mixup import Mixup
from torch.nn import functional as F
from torchvision.transforms import v2

from glora_automl.training import TrainingSettings
from glora_automl.training._augmentation import create_transform
from tests.training.runs import Interrupted, Run, interrupt_after


def augment(images, **settings):
    """Return the images after a transform that mixes nothing."""
    transform = create_transform(TrainingSettings(epochs=1, **settings), n_classes=2)
    return transform(images, torch.zeros(len(images), dtype=torch.long))[0]


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.5)
)
def test_transform_with_shift_moves_images_and_repeats_edges(count, channels, height, width, shift):
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


def test_transform_with_shift_draws_every_shift():
    images = torch.arange(8.0).expand(400, 1, 8, 8)
    column = augment(images, shift=0.25)[:, 0, 0, 4]
    assert sorted(set(column.tolist())) == [2, 3, 4, 5, 6]


def test_transform_with_hflip_mirrors_that_share_of_the_images():
    images = torch.randn(1, 2, 3, 5).expand(400, 2, 3, 5)
    augmented = augment(images, hflip=0.5)
    mirrored = [torch.equal(image, images[0].flip(-1)) for image in augmented]
    unchanged = [torch.equal(image, images[0]) for image in augmented]
    assert sum(mirrored) + sum(unchanged) == 400
    assert 150 < sum(mirrored) < 250
    assert all(torch.equal(i, images[0].flip(-1)) for i in augment(images, hflip=1.0))


def test_transform_with_scale_enlarges_a_random_part_of_each_image():
    rows = torch.linspace(0, 1, 16)[:, None]
    images = (rows + 10 * rows.T).expand(200, 1, 16, 16).contiguous()
    augmented = augment(images, scale=0.25)
    assert augmented.shape == images.shape
    # The shorter range of a crop's rows tells its height.
    heights = augmented[:, 0, -1, 0] - augmented[:, 0, 0, 0]
    assert heights.min() > 0.2
    assert heights.max() < 1.001
    assert len({round(h, 3) for h in heights.tolist()}) > 5


def test_transform_without_augmentation_returns_the_same_tensor():
    images = torch.randn(2, 1, 4, 4)
    assert augment(images) is images


@pytest.mark.parametrize("part", [{"shift": 0.2}, {"hflip": 0.5}, {"scale": 0.5}])
def test_transform_with_the_same_seed_gives_the_same_images(part):
    images = torch.randn(5, 3, 8, 8)
    augmented = []
    for _ in range(2):
        torch.manual_seed(3)
        augmented.append(augment(images, **part))
    assert torch.equal(*augmented)
    assert not torch.equal(images, augmented[0])


def test_transform_of_no_images_returns_none():
    assert augment(torch.zeros(0, 3, 8, 8), shift=0.2).shape == (0, 3, 8, 8)


def mixing(**settings):
    return create_transform(TrainingSettings(epochs=1, **settings), n_classes=4)


MIXES = {"mixup": {"mixup": 0.8}, "cutmix": {"cutmix": 1.0}, "both": {"mixup": 0.8, "cutmix": 1.0}}


@pytest.mark.parametrize("name", MIXES)
@given(
    st.integers(1, 9), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(0, 99)
)
def test_transform_gives_class_probabilities_of_the_images_classes(
    name, count, channels, height, width, seed
):
    images = torch.rand(count, channels, height, width)
    labels = torch.randint(0, 4, (count,))
    originals = images.clone(), labels.clone()
    torch.manual_seed(seed)
    mixed, targets = mixing(**MIXES[name])(images, labels)
    assert torch.equal(images, originals[0])
    assert torch.equal(labels, originals[1])
    assert mixed.shape == images.shape
    assert targets.shape == (count, 4)
    torch.testing.assert_close(targets.sum(1), torch.ones(count))
    assert targets.min() >= 0
    # Each image is mixed with its mirror image in the batch, of the same even part.
    paired = count // 2 * 2
    for i in range(paired):
        assert set(targets[i].nonzero().flatten().tolist()) <= {
            int(labels[i]),
            int(labels[paired - 1 - i]),
        }


@pytest.mark.parametrize("count", [1, 3, 7])
def test_transform_last_image_of_an_odd_batch_stays(count):
    images, labels = torch.rand(count, 1, 6, 6), torch.arange(count) % 4
    mixed, targets = mixing(cutmix=1.0)(images, labels)
    assert torch.equal(mixed[-1], images[-1])
    assert torch.equal(targets[-1], F.one_hot(labels[-1], 4).float())
    if count > 1:
        assert not torch.equal(mixed[:-1], images[:-1])


def test_transform_with_cutmix_mixes_labels_by_area():
    images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 10, 10)
    labels = torch.arange(4)
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, targets = mixing(cutmix=1.0)(images, labels)
        for image, target in zip(mixed, targets, strict=True):
            shares = [(image == label).float().mean().item() for label in range(4)]
            assert target.tolist() == pytest.approx(shares, abs=1e-6)


def test_transform_with_mixup_mixes_images_as_labels():
    images = torch.eye(4).reshape(4, 4, 1, 1).expand(4, 4, 2, 2)
    mixed, targets = mixing(mixup=0.8)(images, torch.arange(4))
    torch.testing.assert_close(mixed[:, :, 0, 0], targets)
    assert 0 < targets.max(1).values.min() < 1


def test_transform_restores_numpys_global_generator_even_after_an_error():
    transform = mixing(mixup=0.5, cutmix=0.5)
    images, labels = torch.rand(4, 1, 4, 4), torch.arange(4)

    def state():
        name, keys, *rest = np.random.get_state()  # noqa: NPY002
        return name, keys.tolist(), *rest

    before = state()
    transform(images, labels)
    assert state() == before
    with pytest.raises(RuntimeError):
        transform(images, torch.tensor([9, 9, 9, 9]))
    assert state() == before


@pytest.mark.parametrize("name", MIXES)
def test_transform_with_the_same_seed_gives_the_same_batch(name):
    images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 4
    batches = []
    for seed, numpys in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(seed)
        np.random.seed(numpys)  # noqa: NPY002
        batches.append(mixing(**MIXES[name])(images, labels))
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[0][1], batches[1][1])
    assert not torch.equal(batches[0][0], batches[2][0])


def test_transform_without_mixes_keeps_class_indices():
    images, labels = torch.rand(4, 1, 4, 4), torch.arange(4)
    found = mixing()(images, labels)
    assert found[0] is images
    assert found[1] is labels


@pytest.mark.parametrize("count", [2, 7, 12])
@pytest.mark.parametrize("name", MIXES)
def test_transform_mixes_as_timm_does(name, count):
    images, labels = torch.rand(count, 3, 6, 9), torch.arange(count) % 4
    torch.manual_seed(5)
    mixed, targets = mixing(**MIXES[name])(images, labels)
    torch.manual_seed(5)
    np.random.seed(int(torch.randint(2**31, ())))  # noqa: NPY002
    settings = {f"{kind}_alpha": MIXES[name].get(kind, 0.0) for kind in ("mixup", "cutmix")}
    timms = Mixup(**settings, mode="elem", label_smoothing=0.0, num_classes=4)
    paired = count // 2 * 2
    expected = timms(images[:paired].clone(), labels[:paired])
    torch.testing.assert_close(mixed[:paired], expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(targets[:paired], expected[1], rtol=1e-6, atol=1e-6)


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.5), st.floats(0, 1))
def test_transform_shifts_and_mirrors_as_torchvision_does(count, height, width, shift, hflip):
    images = torch.rand(count, 2, height, width)
    torch.manual_seed(3)
    found = augment(images, shift=shift, hflip=hflip)
    torch.manual_seed(3)
    pads = [int(shift * width), int(shift * height)]
    expected = []
    for image in images:
        if any(pads):
            image = v2.RandomCrop((height, width), padding=pads, padding_mode="edge")(image)
        expected.append(v2.RandomHorizontalFlip(hflip)(image) if hflip else image)
    assert torch.equal(found, torch.stack(expected))


class Mixed(Run):
    """A training with mixup and CutMix."""

    def __init__(self):
        super().__init__("drop-path")
        self.settings = {"cutmix": 1.0, "mixup": 0.5, "shift": 0.2}


def test_resumed_training_with_cutmix_ends_as_an_uninterrupted_one(tmp_path):
    whole = Mixed()
    losses = whole.fit().losses
    path = tmp_path / "training.json"
    with pytest.raises(Interrupted):
        Mixed().fit(path, on_epoch=interrupt_after(3))
    resumed = Mixed()
    assert resumed.fit(path).losses == losses
    assert resumed.digest() == whole.digest()
    plain = Mixed()
    plain.settings = {"shift": 0.2}
    plain.fit()
    assert plain.digest() != whole.digest()
