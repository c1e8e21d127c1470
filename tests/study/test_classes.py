import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from glora_automl.errors import StudyError
from glora_automl.study import ClassReport


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_class_report_equals_that_of_scikit_learn(pairs):
    labels, predictions = np.array(pairs).T
    report = ClassReport.of("abcde", labels, predictions)
    expected = precision_recall_fscore_support(
        labels, predictions, labels=range(5), zero_division=0
    )
    figures = np.array([figures[1:] for figures in report.figures()]).T
    np.testing.assert_allclose(figures, expected)
    matrix = confusion_matrix(labels, predictions, labels=range(5))
    assert (np.array(report.matrix) == matrix).all()
    wrong = {(c.label, c.prediction): c.n_images for c in report.confusions}
    assert wrong == {
        ("abcde"[i], "abcde"[j]): matrix[i, j] for i, j in np.argwhere(matrix) if i != j
    }
    counts = [confusion.n_images for confusion in report.confusions]
    assert counts == sorted(counts, reverse=True)
    assert ClassReport.from_json(json.loads(json.dumps(report.to_json()))) == report


@pytest.mark.parametrize("n_classes", [100, 101, 1000, 20000])
def test_class_report_of_many_classes_fits_into_an_attribute(n_classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(n_classes, size=60000)
    predictions = np.where(rng.random(60000) < 0.5, labels, rng.integers(n_classes, size=60000))
    names = [f"{'学' * 60}{number}" for number in range(n_classes)]
    report = ClassReport.of(names, labels, predictions)
    assert len(json.dumps(report.to_json())) <= 40_000
    assert report.n_classes == n_classes
    assert len(report.confusions) == 20
    kept = [figures.recall for figures in report.figures()]
    assert len(kept) >= 100
    if n_classes == 20000:
        whole = np.bincount(labels[labels == predictions], minlength=n_classes) / np.maximum(
            1, np.bincount(labels, minlength=n_classes)
        )
        assert max(kept) <= np.quantile(whole, 0.5)


def test_class_report_of_100_classes_keeps_the_matrix():
    labels = np.arange(5000) % 100
    report = ClassReport.of([f"class {n}" for n in range(100)], labels, np.roll(labels, 1))
    assert np.array(report.matrix).sum() == 5000
    assert ClassReport.of([str(n) for n in range(101)], labels, labels).matrix is None


@pytest.mark.parametrize(
    "change",
    [{"support": [1]}, {"matrix": [[1, 2]]}, {"matrix": [[1], [2]]}, {"n_classes": -1}],
    ids=str,
)
def test_class_report_of_an_altered_study_raises(change):
    table = ClassReport.of("ab", np.array([0, 1]), np.array([1, 1])).to_json()
    with pytest.raises(StudyError, match="valid ClassReport"):
        ClassReport.from_json({**table, **change})
