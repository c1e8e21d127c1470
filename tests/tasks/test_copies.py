import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.errors import TaskError
from glora_automl.tasks import ImageSet, LabelledSettings
from glora_automl.tasks import _copies as module
from glora_automl.tasks._copies import draw_distinct


def image_set(pictures, labels):
    """Return images whose pixels are the number of the picture."""
    numbers = torch.tensor(pictures, dtype=torch.uint8)
    images = numbers[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    return ImageSet(images, torch.tensor(labels))


def drawn(pictures, labels, seed=0, **changes):
    images = image_set(pictures, labels)
    return draw_distinct(images, LabelledSettings(**changes), seed, test=True)


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 2)), min_size=1, max_size=60),
    st.integers(0, 3),
    st.sampled_from([{}, {"n_labelled": 8}, {"shots": 1}]),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_draw_distinct_copies_are_in_one_set(places, seed, changes, is_large):
    pictures, labels = (list(part) for part in zip(*places, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_COMPARED", 0 if is_large else 100)
        try:
            parts = drawn(pictures, labels, seed, **changes)
        except TaskError:
            return
    sets = [{pictures[i] for i in part} for part in parts]
    assert not sets[0] & sets[1]
    assert not (sets[0] | sets[1]) & sets[2]
    used = np.concatenate(parts).tolist()
    assert len(set(used)) == len(used)
    if changes:
        few = [pictures[i] for part in parts[:2] for i in part]
        assert len(set(few)) == len(few)
    else:
        assert len(used) == len(pictures)


def test_draw_distinct_doubled_images_give_the_sets_of_the_single_ones():
    pictures, labels = list(range(30)), [n % 3 for n in range(30)]
    single = drawn(pictures, labels)
    double = drawn(pictures * 2, labels * 2)
    for one, two in zip(single, double, strict=True):
        assert sorted(i % 30 for i in two) == sorted([*one, *one])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, r"got 1 of 4 images, without 16 copies of others\. Add images.* different"),
        ({"n_labelled": 10}, "got 1 of 4 images, without 16 copies"),
        ({"shots": 2}, "got 1 of 4 images, without 16 copies"),
    ],
)
def test_draw_distinct_of_too_few_pictures_names_their_copies(changes, words):
    with pytest.raises(TaskError, match=words):
        drawn([n % 4 for n in range(20)], [n % 4 // 2 for n in range(20)], **changes)


def test_draw_distinct_test_images_do_not_depend_on_the_labelled_ones():
    pictures, labels = [n // 2 for n in range(60)], [n // 2 % 3 for n in range(60)]
    sets = [drawn(pictures, labels, **changes)[2].tolist()
            for changes in ({}, {"shots": 2}, {"n_labelled": 10})]  # fmt: skip
    assert sets[0] == sets[1] == sets[2]


def test_draw_distinct_picture_of_two_classes_counts_for_the_smaller_one():
    pictures, labels = [*range(12), 0], [*[0] * 6, *[1] * 6, 2]
    for seed in range(5):
        train, _, _ = drawn(pictures, labels, seed)
        assert {0, 12} <= set(train.tolist())
