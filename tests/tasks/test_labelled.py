import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glora_automl.errors import TaskError
from glora_automl.tasks import LabelledSettings, draw_labelled

labels = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(np.array)


@given(labels, st.integers(0, 3), st.booleans(), st.booleans(), st.data())
def test_draw_labelled_any_settings_give_disjoint_sets(labels, seed, validation, test, data):
    part = st.one_of(st.none(), st.integers(1, 20), st.floats(0.01, 0.99))
    used = data.draw(
        st.sampled_from([{}, {"n_labelled": data.draw(st.integers(2, 80))},
                         {"shots": data.draw(st.integers(1, 4))}])
    )  # fmt: skip
    settings = LabelledSettings(validation_size=data.draw(part), test_size=data.draw(part), **used)
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
    if "n_labelled" in used:
        assert len(parts[0]) + len(parts[1]) == used["n_labelled"]
    if "shots" in used:
        got = np.bincount(labels[parts[0]], minlength=labels.max() + 1)
        assert set(got[np.bincount(labels) > 0]) == {used["shots"]}


def take_way_out(message, labels, settings):
    """Return labels and settings as the message of an error says."""
    if found := re.search(r"(?:Set|Lower) `task\.(\w+)(?: = |` to at most )(\d+)", message):
        key, value = found[1], int(found[2])
        assert value < getattr(settings, key) or isinstance(getattr(settings, key), float)
        return labels, settings.model_copy(update={key: value})
    if found := re.search(r"n_labelled must be at most (\d+),.*Lower `task.n_labelled`\.", message):
        return labels, settings.model_copy(update={"n_labelled": int(found[1])})
    if found := re.search(r"Raise `task.n_labelled` to at least (\d+)\.", message):
        assert settings.n_labelled < int(found[1])
        return labels, settings.model_copy(update={"n_labelled": int(found[1])})
    if found := re.search(r"some class has at least (\d+) different ones\.", message):
        least, largest = int(found[1]), np.bincount(labels).max()
        assert largest < least
        return np.append(labels, [np.bincount(labels).argmax()] * (least - largest)), settings
    found = re.search(r"of class (\d+)\. Add images of this class\.", message)
    return np.append(labels, int(found[1])), settings


@given(labels, st.booleans(), st.booleans(), st.data())
def test_draw_labelled_every_way_out_of_an_error_works(labels, validation, test, data):
    part = st.one_of(st.none(), st.integers(1, 20), st.floats(0.01, 0.99))
    used = data.draw(
        st.sampled_from([{}, {"n_labelled": data.draw(st.integers(2, 80))},
                         {"shots": data.draw(st.integers(1, 9))}])
    )  # fmt: skip
    settings = LabelledSettings(validation_size=data.draw(part), test_size=data.draw(part), **used)
    for _ in range(50):
        try:
            parts = draw_labelled(labels, settings, 0, validation=validation, test=test)
        except TaskError as error:
            labels, settings = take_way_out(str(error), labels, settings)
        else:
            assert len(parts[0])
            return
    pytest.fail("no way out")


def test_draw_labelled_fewer_shots_are_a_subset_with_the_same_test_images():
    labels = np.repeat([0, 1, 2], 20)
    drawn = [draw_labelled(labels, LabelledSettings(shots=k), 0, test=True) for k in (1, 2, 4)]
    trains = [set(train.tolist()) for train, _, _ in drawn]
    assert trains[0] < trains[1] < trains[2]
    assert len({test.tobytes() for _, _, test in drawn}) == 1


@pytest.mark.parametrize(
    ("shots", "validation", "expected"), [(1, None, 1), (3, None, 3), (16, None, 4), (10, 0.3, 3)]
)
def test_draw_labelled_shots_add_validation_images_per_class(shots, validation, expected):
    labels = np.repeat([0, 1], 30)
    settings = LabelledSettings(shots=shots, validation_size=validation)
    _, validated, _ = draw_labelled(labels, settings, 0)
    assert np.bincount(labels[validated]).tolist() == [expected] * 2


def test_draw_labelled_shots_with_validation_count_draws_it_over_all_classes():
    labels = np.repeat([0, 1], 30)
    _, validated, _ = draw_labelled(labels, LabelledSettings(shots=3, validation_size=10), 0)
    assert np.bincount(labels[validated]).tolist() == [5, 5]


@pytest.mark.parametrize("value", [0, -1, 0.0, 1.0, 1.5, True, "3", float("nan")])
@pytest.mark.parametrize("key", ["validation_size", "test_size"])
def test_labelled_settings_size_out_of_range_raises(key, value):
    with pytest.raises(ValueError, match=r"a count of at least 1 or a fraction in \(0, 1\)"):
        LabelledSettings(**{key: value})


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=8), st.integers(0, 3), st.booleans(),
    st.one_of(st.none(), st.floats(0.05, 0.95)), st.one_of(st.none(), st.floats(0.05, 0.95)),
)  # fmt: skip
def test_draw_labelled_training_comes_first_then_validation_then_test(
    sizes, seed, validation, validation_size, test_size
):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    settings = LabelledSettings(validation_size=validation_size, test_size=test_size)
    try:
        parts = draw_labelled(labels, settings, seed, validation=validation, test=True)
    except TaskError as error:
        assert "Add images" in str(error)  # noqa: PT017
        return
    counts = [np.bincount(labels[part], minlength=len(sizes)) for part in parts]
    assert (counts[0] >= 1).all()
    for size, train, validated, tested in zip(sizes, *counts, strict=True):
        assert train + validated + tested == size
        if validation and size == 2:
            assert not tested


def test_draw_labelled_class_of_one_image_is_trained_on():
    labels = np.repeat([0, 1, 2, 3], [20, 20, 2, 1])
    for seed in range(10):
        train, validation, test = (
            np.bincount(labels[part], minlength=4).tolist()
            for part in draw_labelled(labels, LabelledSettings(), seed, test=True)
        )
        assert (train[3], validation[3], test[3]) == (1, 0, 0)
        assert (train[2], validation[2], test[2]) == (1, 1, 0)
