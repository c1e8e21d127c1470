"""The table of smaller adapters, where a study is shown."""

import pytest

from glora_automl.report import (
    PICTURES,
    Snapshot,
    ladder_lines,
    ladder_table,
    markdown_note,
    save_report,
)
from glora_automl.report._picture import Points
from glora_automl.study import Ladder, Step, set_attribute
from glora_automl.training import Score
from tests.report.studies import finish, made_study
from tests.report.test_tables import printed

SCORE = Score(0.9, 0.25, 1000)
LADDER = Ladder(
    1.0,
    "searched",
    1200,
    4800,
    SCORE,
    (
        Step(600, 590, 2360, Score(0.898, 0.5, 1000), 4, 2),
        Step(300, 300, 1200, Score(0.89, 0.6, 1000), 14, 4),
    ),
)


@pytest.fixture
def study():
    study, space = made_study(trials=30)
    finish(study, space)
    set_attribute(study, "ladder", LADDER.to_json())
    return study


def test_ladder_lines_are_sizes_bytes_and_bounds():
    columns, lines = ladder_lines(LADDER)
    assert columns == ("adapter", "parameters", "bytes", "validation", "loses at most")
    assert [line[:3] for line in lines] == [
        ("searched", "1,200", "4,800"),
        ("at most 600 (smallest)", "590", "2,360"),
        ("at most 300", "300", "1,200"),
    ]
    assert [line[-1] for line in lines] == ["–", *(f"{s.bound:.2f}" for s in LADDER.steps)]


def test_ladder_table_has_its_notes_below():
    text = " ".join(printed(ladder_table(LADDER)).split())
    assert "margin 1 points of accuracy" in text
    assert "590 of 1,200 parameters are enough" in text
    assert "loses 1.0 points on these images, more than the margin" in text
    assert "not another training" in text


def test_ladder_stands_in_note_report_and_picture(study, tmp_path):
    save_report(study, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for text in (page, markdown_note(Snapshot.of(study))):
        assert "Smaller adapters" in text
        assert "590 of 1,200 parameters are enough" in text
        assert "at most 600 (smallest)" in text
    marks = PICTURES["adapters"](Snapshot.of(study)).marks
    (star,) = (m for m in marks if isinstance(m, Points) and m.symbol == "star")
    assert (star.name, star.x, star.y) == ("smallest within 1 points", [590], [0.898])


def test_ladder_without_a_smaller_adapter_marks_the_selected_one(study):
    set_attribute(study, "ladder", Ladder(1.0, "searched", 1200, 4800, SCORE).to_json())
    marks = PICTURES["adapters"](Snapshot.of(study)).marks
    (star,) = (m for m in marks if isinstance(m, Points) and m.symbol == "star")
    assert (star.x, star.y) == ([1200], [0.9])
