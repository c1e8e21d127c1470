"""Ladders of smaller adapters, as a study keeps them."""

import json

import pytest

from glora_automl.errors import StudyError
from glora_automl.study import Ladder, Step
from glora_automl.training import Score

SCORE = Score(0.9, 0.3, 1000, 0.25)


def step(n_params, n_lost, n_gained=0):
    return Step(n_params + 5, n_params, 4 * n_params, SCORE, n_lost, n_gained)


def ladder(*steps, margin=1.0, score=SCORE):
    return Ladder(margin, "searched", 1000, 4000, score, steps)


def test_ladder_chosen_is_the_last_step_before_the_first_that_fails():
    good, also_good, bad = step(500, 1), step(250, 4), step(125, 9)
    assert ladder().chosen is None
    assert ladder(bad).chosen is None
    assert ladder(good, also_good).chosen == also_good
    assert ladder(good, bad, also_good).chosen == good


def test_ladder_chosen_follows_the_margin():
    steps = step(500, 1), step(250, 4), step(125, 9)
    chosen = [ladder(*steps, margin=margin).chosen for margin in (0.4, 0.6, 1.0, 2.0)]
    assert [found and found.n_params for found in chosen] == [None, 500, 250, 125]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (ladder(step(500, 1)), ["500 of 1,000 parameters are enough", "at most 0.47 points"]),
        (ladder(step(500, 7)), ["No adapter below 1,000", "(500) may lose 1.3", "about 2,0"]),
        (ladder(step(500, 20)), ["(500) loses 2.0 points on these images, more than the margin"]),
        (ladder(margin=0.2), ["takes 1,497 validation images", "No smaller adapter was trained"]),
        (ladder(), ["No adapter below 1,000 parameters is shown to be within 1 points."]),
    ],
)
def test_ladder_notes_name_sizes_and_the_images_that_are_missing(found, words):
    text = " ".join(found.notes())
    assert all(word in text for word in words), text


def test_ladder_from_json_reverses_to_json():
    found = ladder(step(500, 1), step(250, 4, 2))
    assert Ladder.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("key", "value"), [("n_lost", 1001), ("n_gained", -1), ("validation", None)]
)
def test_ladder_from_altered_json_raises(key, value):
    table = ladder(step(500, 1)).to_json()
    table["steps"][0][key] = value
    with pytest.raises(StudyError, match="must be a valid Ladder"):
        Ladder.from_json(table)
    with pytest.raises(StudyError, match="must be a valid Ladder"):
        Ladder.from_json(ladder().to_json() | {"margin": 0})
