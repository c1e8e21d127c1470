import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.errors import TaskError
from glora_automl.tasks import ArraysSettings, DigitsSettings, load_arrays, load_npz, load_task
from glora_automl.tasks import NpzSettings as Npz

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 5, 6, 3), dtype=np.uint8)
LABELS = np.repeat(["bee", "ant"], 20)


def task_of(seed=0, **changes):
    return load_arrays(ArraysSettings(source="arrays", **changes), seed, (IMAGES, LABELS))


@given(
    seed=st.integers(0, 99),
    validation=st.one_of(st.integers(1, 38), st.floats(0.05, 0.9)),
    test=st.one_of(st.none(), st.just(0.25)),
)
@settings(max_examples=30)
def test_load_arrays_sets_are_disjoint_and_complete(seed, validation, test):
    used = 40 if test is None else 30
    count = round(validation * used) if isinstance(validation, float) else validation
    if used - count < 2:
        return
    task = task_of(seed, validation_size=validation, test_size=test)
    parts = [task.train, task.validation, task.test]
    assert [len(part) for part in parts] == [used - count, count, 40 - used]
    digests = [digest for part in parts for digest in part.image_digests()]
    assert len(set(digests)) == 40
    for part in parts:
        for image, label in zip(part.images, part.labels, strict=True):
            at = np.flatnonzero((image.permute(1, 2, 0).numpy() == IMAGES).all((1, 2, 3)))
            assert task.classes[label] == LABELS[at[0]]


def test_load_arrays_equals_load_npz(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS)
    sizes = {"validation_size": 0.3, "test_size": 0.2}
    file = load_npz(Npz(source="npz", path=str(tmp_path / "a.npz"), **sizes), seed=3)
    assert task_of(3, **sizes).digest() == file.digest()


def test_load_arrays_grey_images_have_one_channel():
    task = load_arrays(ArraysSettings(source="arrays"), 0, (IMAGES[..., 0], LABELS))
    assert task.train.images.shape == (32, 1, 5, 6)
    assert task.train.images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (None, "arrays=(images, labels)"),
        ((IMAGES.astype(float), LABELS), "must be uint8 of shape (n, height, width)"),
        ((IMAGES[0, 0], LABELS), "got uint8 of shape (6, 3)"),
        ((IMAGES, LABELS[1:]), "got shape (39,) for 40 images"),
        ((IMAGES, np.repeat("ant", 40)), "at least two classes, got 1, 'ant'"),
        (
            (IMAGES[:2], np.array([0, 1])),
            "task.validation_size must leave a train image of each class, got 1 of 2 images. Add",
        ),
    ],
)
def test_load_arrays_wrong_arrays_raise(arrays, words):
    with pytest.raises(TaskError, match=re.escape(words)):
        load_arrays(ArraysSettings(source="arrays"), 0, arrays)


def test_load_task_arrays_for_another_source_raise():
    digits = DigitsSettings(
        source="digits", classes=(1, 2), train_per_class=2, validation_per_class=2
    )
    with pytest.raises(TaskError, match="must be 'arrays' where arrays are given, got 'digits'"):
        load_task(digits, 0, arrays=(IMAGES, LABELS))
