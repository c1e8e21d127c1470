from collections import Counter

import numpy as np
import pytest
import torch
from sklearn import datasets

from glora_automl.errors import TaskError
from glora_automl.tasks import DigitsSettings, load_digits


def settings(**changes):
    return DigitsSettings(
        **{
            "source": "digits",
            "classes": (7, 3, 9),
            "pretraining_classes": (4, 0),
            "train_per_class": 5,
            "validation_per_class": 11,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def digit_of():
    """The digit that an image of scikit-learn shows, by its pixels as bytes."""
    bunch = datasets.load_digits()
    pixels = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    return {p.tobytes(): int(t) for p, t in zip(pixels, bunch.target, strict=True)}


def images_of(part):
    return [image.numpy().tobytes() for image in part.images]


@pytest.fixture(scope="module")
def task():
    return load_digits(settings(), seed=0)


def test_load_digits_sets_are_disjoint_and_complete(task, digit_of):
    assert len(digit_of) == 1797  # all images differ, so pixels identify them
    parts = (task.train, task.validation, task.test, task.pretraining)
    counts = Counter(image for part in parts for image in images_of(part))
    assert set(counts.values()) == {1}
    assert set(counts) == {image for image, digit in digit_of.items() if digit in (0, 3, 4, 7, 9)}


def test_load_digits_train_and_validation_have_the_images_per_class(task):
    assert torch.bincount(task.train.labels).tolist() == [5, 5, 5]
    assert torch.bincount(task.validation.labels).tolist() == [11, 11, 11]
    assert (torch.bincount(task.test.labels) > 100).all()


def test_load_digits_labels_index_the_class_names(task, digit_of):
    assert task.classes == ("3", "7", "9")
    for part in (task.train, task.validation, task.test):
        named = [int(task.classes[label]) for label in part.labels]
        assert named == [digit_of[image] for image in images_of(part)]
    numbered = [(0, 4)[label] for label in task.pretraining.labels]
    assert numbered == [digit_of[image] for image in images_of(task.pretraining)]


def test_load_digits_images_are_bytes_from_black_to_white(task):
    assert task.train.images.dtype == torch.uint8
    assert task.train.labels.dtype == torch.int64
    assert task.train.images.shape == (15, 1, 8, 8)
    assert (task.test.images.min(), task.test.images.max()) == (0, 255)


def test_load_digits_order_of_classes_does_not_matter(task):
    assert load_digits(settings(classes=(3, 9, 7)), seed=0).digest() == task.digest()


def test_load_digits_seed_alone_determines_the_sets(task):
    np.random.seed(1)  # noqa: NPY002
    assert load_digits(settings(), seed=0).digest() == task.digest()
    other = load_digits(settings(), seed=1)
    assert other.digest() != task.digest()
    assert other.pretraining.digest() == task.pretraining.digest()
    assert set(images_of(other.train)) != set(images_of(task.train))


def test_load_digits_without_pretraining_classes_has_no_pretraining_images():
    assert load_digits(settings(pretraining_classes=()), seed=0).pretraining is None


def test_load_digits_too_few_images_of_a_class_raises():
    with pytest.raises(TaskError, match=r"more than 5 \+ 178 images, got 183 of class 3") as caught:
        load_digits(settings(validation_per_class=178), seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": (3, 7, 4)},
        {"classes": (3, 3)},
        {"classes": (3, 10)},
        {"classes": (3, -1)},
        {"pretraining_classes": (1, 1)},
        {"pretraining_classes": (10,)},
    ],
    ids=str,
)
def test_digits_settings_invalid_digits_raise(changes):
    with pytest.raises(ValueError, match="digits from 0 to 9, each at most once"):
        settings(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"classes": (3,)}, {"train_per_class": 0}, {"validation_per_class": 0}, {"source": "letters"},
     {"train_per_clas": 3}],
    ids=str,
)  # fmt: skip
def test_digits_settings_out_of_range_raise(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        settings(**changes)
