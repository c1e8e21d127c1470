import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glora_automl.errors import TaskError
from glora_automl.tasks import LabelledSettings, draw_labelled, stratified_draw

labels = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(np.array)


@given(labels, st.data())
def test_a_draw_is_as_large_as_asked_for_and_in_proportion(labels, data):
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


@given(labels, st.integers(0, 3), st.booleans(), st.booleans(), st.data())
def test_parts_are_disjoint_whatever_is_asked_for(labels, seed, validation, test, data):
    part = st.one_of(st.none(), st.integers(1, 20), st.floats(0.01, 0.99))
    used = data.draw(
        st.sampled_from([{}, {"labelled": data.draw(st.integers(2, 80))},
                         {"shots": data.draw(st.integers(1, 4))}])
    )  # fmt: skip
    settings = LabelledSettings(validation=data.draw(part), test=data.draw(part), **used)
    try:
        parts = draw_labelled(labels, settings, seed, validation=validation, test=test)
    except TaskError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    together = np.concatenate(parts)
    assert len(set(together.tolist())) == len(together) <= len(labels)
    assert len(parts[0])
    assert bool(len(parts[1])) == validation
    assert bool(len(parts[2])) == test
    if "labelled" in used:
        assert len(parts[0]) + len(parts[1]) == used["labelled"]
    if "shots" in used:
        got = np.bincount(labels[parts[0]], minlength=labels.max() + 1)
        assert set(got[np.bincount(labels) > 0]) == {used["shots"]}


def test_fewer_shots_are_among_more_and_the_test_images_are_the_same():
    labels = np.repeat([0, 1, 2], 20)
    drawn = [draw_labelled(labels, LabelledSettings(shots=k), 0, test=True) for k in (1, 2, 4)]
    fits = [set(fit.tolist()) for fit, _, _ in drawn]
    assert fits[0] < fits[1] < fits[2]
    assert len({test.tobytes() for _, _, test in drawn}) == 1


@pytest.mark.parametrize(
    ("shots", "validation", "expected"), [(1, None, 1), (3, None, 3), (16, None, 4), (10, 0.3, 3)]
)
def test_shots_bring_images_to_validate_on(shots, validation, expected):
    labels = np.repeat([0, 1], 30)
    settings = LabelledSettings(shots=shots, validation=validation)
    _, validated, _ = draw_labelled(labels, settings, 0)
    assert np.bincount(labels[validated]).tolist() == [expected] * 2


def test_a_count_to_validate_on_is_of_all_classes_together():
    labels = np.repeat([0, 1], 30)
    _, validated, _ = draw_labelled(labels, LabelledSettings(shots=3, validation_size=10), 0)
    assert np.bincount(labels[validated]).tolist() == [5, 5]


@pytest.mark.parametrize("value", [0, -1, 0.0, 1.0, 1.5, True, "3", float("nan")])
@pytest.mark.parametrize("key", ["validation", "test"])
def test_parts_are_counts_or_shares(key, value):
    with pytest.raises(ValueError, match="count from 1 on or a share between 0 and 1"):
        LabelledSettings(**{key: value})
