import optuna
import pytest

from glora_automl.errors import StudyError
from glora_automl.study import Absent, DataSummary, Majority, Overlap, read_data

FULL = DataSummary(
    {"train": 100, "validation": 20, "test": 30, "far": 9, "new": 8},
    (Overlap("train", "test", 2), Overlap("train", "validation", 1), Overlap("far", "new", 3)),
    (Absent("test", 1, ("ant",)), Absent("validation", 40, ("a", "b", "c"))),
    n_contradictions=4,
    n_dark=95,
)


def test_data_summary_notes_say_what_limits_the_figures():
    assert DataSummary({"train": 100}, n_dark=89).notes() == []
    assert FULL.notes() == [
        "2 of 30 test images are copies of train images: the test accuracy is too high.",
        "1 of 20 validation images is a copy of a train image: the validation accuracy is too "
        "high.",
        "3 of 8 new images are copies of far images.",
        "1 class has no test image: 'ant'.",
        "40 classes have no validation image: 'a', 'b', 'c' and others.",
        "4 images have copies of another class.",
        "95 of 100 train images are almost black. For fewer than 16 bits in 16-bit files, set "
        "`task.value_range`, such as [0, 4095] for 12 bits.",
    ]


def test_data_summary_captions_begin_with_the_majority_class():
    data = DataSummary({"test": 40}, majority=Majority("ant\n", "test", 10, 40), n_contradictions=2)
    assert data.captions() == [
        "Majority class ('ant\\n'): accuracy 25.0% on test images.",
        "2 images have copies of another class.",
    ]
    assert DataSummary.from_json(data.to_json()) == data
    assert DataSummary().captions() == []


def test_data_summary_notes_of_long_names_are_bounded_lines():
    name = "x\n" * 200
    data = DataSummary({name: 10}, (Overlap("train", name, 2),), (Absent("test", 9, (name,) * 3),))
    assert all(len(note) <= 300 and note.isprintable() for note in data.notes())


def test_read_data_returns_what_the_study_keeps():
    study = optuna.create_study()
    assert read_data(study) == DataSummary()
    study.set_user_attr("glora:data", FULL.to_json())
    assert read_data(study) == FULL


@pytest.mark.parametrize("value", [1, "x", [], {"n_images": 3}, {"overlaps": [[1]]}])
def test_read_data_of_an_altered_study_raises(value):
    study = optuna.create_study()
    study.set_user_attr("glora:data", value)
    with pytest.raises(StudyError, match="valid DataSummary"):
        read_data(study)
