"""Report of an adapter by class: precision, recall, F1 and the most frequent confusions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import numpy as np

from glora_automl._messages import short
from glora_automl.study._record import Count, Record

__all__ = ["ClassFigures", "ClassReport", "Confusion"]

MAX_MATRIX_CLASSES = 100
"""Classes up to which the confusion matrix is kept."""

N_CONFUSIONS = 20
"""Most frequent confusions, which are kept for any number of classes."""

MAX_BYTES = 40_000
"""Size of the record. MySQL holds 64 KB in a text, and the rows of the test lie in the same one."""


class Confusion(NamedTuple):
    """Images of one class that were classified as another.

    Attributes:
        label: Class of the images.
        prediction: The predicted class.
        n_images: Number of such images.
    """

    label: str
    prediction: str
    n_images: Count


class ClassFigures(NamedTuple):
    """Figures of one class.

    Attributes:
        name: Name of the class.
        precision: Fraction of correct images among the predictions of the class; 0 without any.
        recall: Fraction of the images of the class that are classified correctly; 0 without any.
        f1: Harmonic mean of precision and recall.
        support: Images of the class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ClassReport(Record):
    """Counts of an adapter's predictions on labelled images, by class.

    Attributes:
        split: The images: ``test`` or ``validation``.
        n_classes: Number of all classes.
        names: Names of the classes that are kept: all of them, or those of lowest recall.
        support: Images of each.
        predicted: Predictions of each.
        correct: Correct predictions of each.
        confusions: The most frequent confusions.
        matrix: Images by class and prediction; None for many classes.

    Example:
        >>> labels, predictions = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
        >>> report = ClassReport.of(["ant", "bee"], labels, predictions)
        >>> report.figures()[0]
        ClassFigures(name='ant', precision=1.0, recall=0.5, f1=0.666..., support=2)
        >>> report.confusions, report.matrix
        ((Confusion(label='ant', prediction='bee', n_images=1),), ((1, 1), (0, 2)))
    """

    split: Literal["test", "validation"]
    n_classes: Count
    names: tuple[str, ...]
    support: tuple[Count, ...]
    predicted: tuple[Count, ...]
    correct: tuple[Count, ...]
    confusions: tuple[Confusion, ...] = ()
    matrix: tuple[tuple[Count, ...], ...] | None = None

    def __post_init__(self) -> None:
        columns = (self.names, self.support, self.predicted, self.correct)
        if {*map(len, columns)} != {len(self.names)}:
            raise ValueError("support, predicted and correct must have a count for each class")
        if self.matrix is not None and {len(self.matrix), *map(len, self.matrix)} != {
            len(self.names)
        }:
            raise ValueError("matrix must have a row and a column for each class")

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        labels: np.ndarray,
        predictions: np.ndarray,
        split: Literal["test", "validation"] = "test",
    ) -> Self:
        """Count predictions; what does not fit into an attribute of a study is left out.

        Args:
            names: Names of all classes.
            labels: Class indices ``(n,)``.
            predictions: Predicted class indices ``(n,)``.
            split: Name of the images.
        """
        n_classes = len(names)
        shown = [short(name, 40)[1:-1] for name in names]
        pairs, counts = np.unique(labels * n_classes + predictions, return_counts=True)
        wrong = pairs // n_classes != pairs % n_classes
        order = np.argsort(-counts[wrong], kind="stable")[:N_CONFUSIONS]
        matrix = None
        if n_classes <= MAX_MATRIX_CLASSES:
            dense = np.zeros(n_classes * n_classes, dtype=np.int64)
            dense[pairs] = counts
            matrix = tuple(map(tuple, dense.reshape(n_classes, n_classes).tolist()))

        def count(indices: np.ndarray) -> tuple[int, ...]:
            return tuple(np.bincount(indices, minlength=n_classes).tolist())

        report = cls(
            split,
            n_classes,
            tuple(shown),
            count(labels),
            count(predictions),
            count(labels[labels == predictions]),
            tuple(
                Confusion(shown[pair // n_classes], shown[pair % n_classes], int(n_images))
                for pair, n_images in zip(pairs[wrong][order], counts[wrong][order], strict=True)
            ),
            matrix,
        )
        return report._fitted()

    def _fitted(self) -> Self:
        """Return the report without its matrix, then with ever fewer classes, until it fits."""
        report = self
        while len(json.dumps(report.to_json())) > MAX_BYTES:
            if report.matrix is not None:
                report = replace(report, matrix=None)
                continue
            recalls = [figures.recall for figures in report.figures()]
            kept = sorted(np.argsort(recalls, kind="stable")[: len(recalls) * 3 // 4].tolist())
            report = replace(
                report,
                names=tuple(report.names[place] for place in kept),
                support=tuple(report.support[place] for place in kept),
                predicted=tuple(report.predicted[place] for place in kept),
                correct=tuple(report.correct[place] for place in kept),
            )
        return report

    def figures(self) -> list[ClassFigures]:
        """Return the figures of each class that is kept."""
        return [
            ClassFigures(name, hits / max(1, guesses), hits / max(1, images),
                         2 * hits / max(1, images + guesses), images)
            for name, images, guesses, hits in zip(
                self.names, self.support, self.predicted, self.correct, strict=True
            )
        ]  # fmt: skip
