import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from glora_automl.errors import TaskError
from glora_automl.tasks import Domain, ImageSet, InputFormat, Normalisation, Task, stratified_split

CPU = torch.device("cpu")
MEAN, STD = (0.2, 0.5, 0.8), (0.1, 0.5, 2.0)


def image_set(channels=3, size=(8, 8), count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, *size), generator=generator)
    return ImageSet(images.to(torch.uint8), torch.arange(count) % 2)


def test_images_of_the_right_size_are_only_normalised():
    given_ = image_set()
    x, y = given_.prepare(InputFormat((3, 8, 8), MEAN, STD), CPU)
    for channel in range(3):
        plain = (given_.images[:, channel].float() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(x[:, channel], plain)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    assert torch.equal(y, given_.labels)


def test_preparing_leaves_the_raw_images_alone():
    raw = image_set(1)
    before = raw.digest()
    x, _ = raw.prepare(InputFormat((3, 16, 16), MEAN, STD), CPU)
    x.zero_()
    assert raw.digest() == before


def test_grey_images_are_repeated_over_the_channels():
    grey = image_set(1)
    x, _ = grey.prepare(InputFormat((3, 8, 8), MEAN, STD), CPU)
    assert x.shape == (4, 3, 8, 8)
    back = x * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    for channel in range(3):
        torch.testing.assert_close(back[:, channel], grey.images[:, 0].float() / 255)


@pytest.mark.parametrize("size", [(16, 16), (4, 4), (8, 12)])
def test_other_sizes_are_resized_and_stay_between_black_and_white(size):
    sharp = ImageSet(
        torch.tensor([0, 255], dtype=torch.uint8)
        .repeat_interleave(4)
        .expand(2, 3, 8, 8)
        .contiguous(),
        torch.tensor([0, 1]),
    )
    x, _ = sharp.prepare(InputFormat((3, *size), (0.0,) * 3, (1.0,) * 3), CPU)
    assert x.shape == (2, 3, *size)
    # The left is black and the right white; bicubic overshoot is cut off.
    assert x.min() >= 0
    assert x.max() <= 1
    assert x[..., 0].max() < 0.1
    assert x[..., -1].min() > 0.9


def test_resizing_is_antialiased():
    raw = image_set(size=(64, 64))
    x, _ = raw.prepare(InputFormat((3, 8, 8), (0.0,) * 3, (1.0,) * 3), CPU)
    # Means over random pixels lie close together where picked pixels would not.
    assert x.std() < 0.1
    mean = F.avg_pool2d(raw.images.float() / 255, 8)
    assert torch.corrcoef(torch.stack([x.flatten(), mean.flatten()]))[0, 1] > 0.8


def test_a_flat_image_stays_flat_in_any_size():
    flat = ImageSet(torch.full((1, 1, 8, 8), 51, dtype=torch.uint8), torch.tensor([0]))
    x, _ = flat.prepare(InputFormat((1, 13, 5), (0.0,), (1.0,)), CPU)
    torch.testing.assert_close(x, torch.full((1, 1, 13, 5), 0.2))


@pytest.mark.parametrize(("channels", "wanted"), [(3, 1), (2, 3), (4, 3)])
def test_channels_that_cannot_be_matched_are_refused(channels, wanted):
    target = InputFormat((wanted, 8, 8), (0.5,) * wanted, (0.5,) * wanted)
    with pytest.raises(TaskError, match=rf"{wanted} channels.*got {channels}"):
        image_set(channels).prepare(target, CPU)


def test_digest_of_images_depends_on_pixels_labels_and_shape():
    a = image_set()
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


def test_digest_of_a_task_depends_on_every_part():
    parts = [image_set(seed=seed) for seed in range(4)]
    task = Task("t", ("a", "b"), *parts)
    others = [
        Task("t", ("a", "c"), *parts),
        Task("t", ("a", "b"), parts[1], parts[0], *parts[2:]),
        Task("t", ("a", "b"), *parts[:2], parts[3], parts[2]),
        Task("t", ("a", "b"), *parts[:3]),
    ]
    assert len({task.digest(), *(other.digest() for other in others)}) == 5
    assert Task("t", ("a", "b"), *parts).digest() == task.digest()


@st.composite
def splits(draw):
    per_class = draw(st.lists(st.integers(0, 4), max_size=3))
    sizes = draw(st.lists(st.integers(sum(per_class) + 1, 15), min_size=1, max_size=4))
    classes = draw(st.lists(st.integers(0, 20), min_size=len(sizes), max_size=len(sizes),
                            unique=True))  # fmt: skip
    labels = np.repeat(classes, sizes)
    return draw(st.permutations(labels.tolist())), per_class, draw(st.integers(0, 2**32))


@settings(max_examples=60)
@given(splits())
def test_splits_are_disjoint_complete_stratified_and_sorted(split):
    labels, per_class, seed = split
    parts = stratified_split(labels, per_class, np.random.default_rng(seed))
    assert len(parts) == len(per_class) + 1
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    labels = np.asarray(labels)
    for part, count in zip(parts, per_class, strict=False):
        assert (np.diff(part) > 0).all()
        assert all((labels[part] == label).sum() == count for label in set(labels))
    assert set(labels[parts[-1]]) == set(labels)
    again = stratified_split(labels, per_class, np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_another_seed_splits_otherwise():
    labels = [0, 1] * 50
    first, second = (stratified_split(labels, [10], np.random.default_rng(s)) for s in (0, 1))
    assert not np.array_equal(first[0], second[0])


def test_a_class_without_images_for_the_rest_is_refused():
    with pytest.raises(TaskError, match=r"more than 2 \+ 1 images.*class 7 has 3"):
        stratified_split([5] * 4 + [7] * 3, [2, 1], np.random.default_rng(0))


def test_many_images_are_normalised_batch_by_batch(monkeypatch):
    raw = image_set(1, count=9)
    target = InputFormat((3, 16, 16), MEAN, STD)
    whole, _ = raw.prepare(target, CPU)
    monkeypatch.setattr("glora_automl.tasks._images.WHOLE", 100)
    lazy, labels = raw.prepare(target, CPU)
    assert isinstance(whole, torch.Tensor)
    assert not isinstance(lazy, torch.Tensor)
    assert (len(lazy), lazy.device) == (9, CPU)
    assert torch.equal(labels, raw.labels)
    for index in (slice(2, 5), slice(0, 99), torch.tensor([8, 0, 0])):
        torch.testing.assert_close(lazy[index], whole[index])


def test_a_task_may_have_a_normalisation_of_its_own():
    target = InputFormat((3, 8, 8), MEAN, STD, "bilinear", 0.9)
    parts = [image_set(seed=seed) for seed in range(3)]
    plain = Task("t", ("a", "b"), *parts)
    own = Task("t", ("a", "b"), *parts, normalisation=Normalisation((0.25, 0.5, 0.75), (1.0,) * 3))
    assert plain.format(target) == target
    assert own.format(target) == target._replace(mean=(0.25, 0.5, 0.75), std=(1.0,) * 3)
    grey = own.format(target._replace(size=(1, 8, 8), mean=(0.5,), std=(0.5,)))
    assert (grey.mean, grey.std) == ((0.5,), (1.0,))


def test_images_that_are_in_two_sets_are_counted_by_set():
    parts = [image_set(seed=seed) for seed in range(4)]
    both = ImageSet(torch.cat([parts[0].images[:1], parts[3].images]), torch.zeros(5).long())
    task = Task("t", ("a", "b"), *parts[:3], domains={"far": Domain(both), "new": Domain(parts[3])})
    assert task.repeated() == {"far": 1}
    assert Task("t", ("a", "b"), parts[0], parts[1], parts[1]).repeated() == {"test_size": 4}
