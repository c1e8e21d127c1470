"""Records as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glora_automl.errors import StudyError
from glora_automl.study import Record


class Point(NamedTuple):
    x: float
    y: int = 0


@dataclass(frozen=True)
class Inner(Record):
    name: str


@dataclass(frozen=True)
class Outer(Record):
    point: Point
    inner: Inner | None = None
    points: tuple[Point, ...] = ()
    named: Mapping[str, Point] = field(default_factory=dict)
    pairs: tuple[tuple[float, float], ...] = ()


def test_record_to_json_names_the_fields_of_named_tuples():
    record = Outer(Point(0.5), Inner("a"), (Point(1.0, 2),), {"k": Point(3.0)}, ((1.0, 2.0),))
    assert record.to_json() == {
        "point": {"x": 0.5, "y": 0},
        "inner": {"name": "a"},
        "points": [{"x": 1.0, "y": 2}],
        "named": {"k": {"x": 3.0, "y": 0}},
        "pairs": [[1.0, 2.0]],
    }


points = st.builds(
    Point, st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63) + 1, 2**63 - 1)
)


@given(
    st.builds(
        Outer,
        points,
        st.none() | st.builds(Inner, st.text()),
        st.lists(points).map(tuple),
        st.dictionaries(st.text(), points),
    )
)
def test_record_from_json_reverses_to_json(record):
    assert Outer.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_record_from_json_fills_in_fields_that_are_missing():
    assert Outer.from_json({"point": {"x": 1}}) == Outer(Point(1.0, 0))


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ({}, "no point."),
        ({"point": {"x": "far"}}, "an invalid point.x: 'far'"),
        ({"point": {"x": 1}, "inner": {"name": 3}}, "an invalid inner.name: 3"),
        ([], "an invalid value"),
    ],
)
def test_record_from_json_invalid_raises_and_names_the_place(table, where):
    with pytest.raises(StudyError, match=f"must be a valid Outer, got {where}"):
        Outer.from_json(table)
