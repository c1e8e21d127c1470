import torch

from glora_automl.tasks import Domain, ImageSet, InputFormat, Normalization, Task
from tests.tasks.files import random_images

MEAN, STD = (0.2, 0.5, 0.8), (0.1, 0.5, 2.0)


def test_digest_depends_on_every_set():
    parts = [random_images(seed=seed) for seed in range(4)]
    task = Task("t", ("a", "b"), *parts)
    others = [
        Task("t", ("a", "c"), *parts),
        Task("t", ("a", "b"), parts[1], parts[0], *parts[2:]),
        Task("t", ("a", "b"), *parts[:2], parts[3], parts[2]),
        Task("t", ("a", "b"), *parts[:3]),
    ]
    assert len({task.digest(), *(other.digest() for other in others)}) == 5
    assert Task("t", ("a", "b"), *parts).digest() == task.digest()


def test_format_own_normalization_replaces_the_backbones():
    target = InputFormat((3, 8, 8), MEAN, STD, "bilinear", 0.9)
    parts = [random_images(seed=seed) for seed in range(3)]
    plain = Task("t", ("a", "b"), *parts)
    own = Task("t", ("a", "b"), *parts, normalization=Normalization((0.25, 0.5, 0.75), (1.0,) * 3))
    assert plain.format(target) == target
    assert own.format(target) == target._replace(mean=(0.25, 0.5, 0.75), std=(1.0,) * 3)
    grey = own.format(target._replace(size=(1, 8, 8), mean=(0.5,), std=(0.5,)))
    assert (grey.mean, grey.std) == ((0.5,), (1.0,))


def test_overlaps_copies_are_counted_per_pair_of_splits():
    parts = [random_images(seed=seed) for seed in range(4)]
    both = ImageSet(torch.cat([parts[0].images[:1], parts[3].images]), torch.zeros(5).long())
    task = Task("t", ("a", "b"), *parts[:3], domains={"far": Domain(both), "new": Domain(parts[3])})
    assert task.overlaps() == {("train", "far"): 1, ("far", "new"): 4}
    task = Task("t", ("a", "b"), *parts[:3], domains={"train": Domain(both)})
    assert task.overlaps() == {("train", "domain train"): 1}
    assert task.n_contradictions() == 0
    task = Task("t", ("a", "b"), parts[0], parts[1], parts[1])
    assert task.overlaps() == {("validation", "test"): 4}


def test_absent_classes_are_named_per_split():
    parts = [random_images(seed=seed) for seed in range(3)]
    empty = parts[2].subset(torch.arange(0))
    assert Task("t", ("a", "b"), *parts).absent() == {}
    one = parts[1].subset(torch.tensor([0, 2]))
    task = Task("t", ("a", "b", "c"), parts[0], one, empty)
    assert task.absent() == {"train": ("c",), "validation": ("b", "c")}


def test_n_dark_counts_images_without_a_bright_pixel():
    parts = [random_images(seed=seed) for seed in range(3)]
    assert Task("t", ("a", "b"), *parts).n_dark() == 0
    dark = ImageSet(parts[0].images // 16, parts[0].labels)
    assert Task("t", ("a", "b"), dark, *parts[1:]).n_dark() == 4


def test_n_contradictions_counts_copies_of_another_class():
    parts = [random_images(seed=seed) for seed in range(3)]
    assert Task("t", ("a", "b"), *parts).n_contradictions() == 0
    other = ImageSet(parts[0].images[:1], torch.tensor([1]))
    assert Task("t", ("a", "b"), parts[0], parts[1], other).n_contradictions() == 2
    same = ImageSet(parts[0].images[:1], parts[0].labels[:1])
    assert Task("t", ("a", "b"), parts[0], parts[1], same).n_contradictions() == 0
