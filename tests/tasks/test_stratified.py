import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.errors import TaskError
from glora_automl.tasks import stratified_draw, stratified_split

labels = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(np.array)


@given(labels, st.data())
def test_stratified_draw_has_the_count_and_is_proportional(labels, data):
    count = data.draw(st.integers(0, len(labels)))
    drawn = stratified_draw(labels, count, np.random.default_rng(data.draw(st.integers(0, 99))))
    assert len(set(drawn.tolist())) == len(drawn) == count
    assert (np.diff(drawn) > 0).all()
    sizes, got = np.bincount(labels), np.bincount(labels[drawn], minlength=labels.max() + 1)
    present = sizes > 0
    first = present * (count >= present.sum())
    if count > first.sum():
        quota = (count - first.sum()) * (sizes - first) / (sizes - first).sum()
        assert (np.abs(got - first - quota) < 1 + 1e-9).all()
    if count >= present.sum():
        assert (got[present] >= 1).all()


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
def test_stratified_split_sets_are_disjoint_complete_stratified_and_sorted(split):
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


def test_stratified_split_another_seed_differs():
    labels = [0, 1] * 50
    first, second = (stratified_split(labels, [10], np.random.default_rng(s)) for s in (0, 1))
    assert not np.array_equal(first[0], second[0])


def test_stratified_split_class_without_rest_raises():
    with pytest.raises(TaskError, match=r"more than 2 \+ 1 images, got 3 of class 7"):
        stratified_split([5] * 4 + [7] * 3, [2, 1], np.random.default_rng(0))
