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


def test_repeated_duplicates_are_counted_per_test_set():
    parts = [random_images(seed=seed) for seed in range(4)]
    both = ImageSet(torch.cat([parts[0].images[:1], parts[3].images]), torch.zeros(5).long())
    task = Task("t", ("a", "b"), *parts[:3], domains={"far": Domain(both), "new": Domain(parts[3])})
    assert task.repeated() == {"far": 1}
    assert Task("t", ("a", "b"), parts[0], parts[1], parts[1]).repeated() == {"test": 4}
