"""Tables and picture of an adapter by class."""

from __future__ import annotations

from glora_automl._messages import printable
from glora_automl.report._picture import Axis, Grid, Picture
from glora_automl.report._snapshot import Snapshot
from glora_automl.report._tables import TextTable
from glora_automl.study import ClassReport

__all__ = ["class_table", "classes_title", "confusion_picture", "confusion_table", "matrix_table"]


def classes_title(report: ClassReport) -> str:
    """Return the title of :func:`class_table`.

    Example:
        >>> classes_title(ClassReport("test", 9, ("ant",), (1,), (1,), (1,)))
        'Classes on test images: the 1 of 9 with the lowest recall'
    """
    title = f"Classes on {report.split} images"
    if len(report.names) == report.n_classes:
        return title
    return f"{title}: the {len(report.names):,} of {report.n_classes:,} with the lowest recall"


def class_table(report: ClassReport) -> TextTable:
    """Return precision, recall, F1 and number of images by class."""
    lines: list[tuple[str, ...]] = [
        (
            printable(figures.name),
            f"{100 * figures.precision:.1f}",
            f"{100 * figures.recall:.1f}" if figures.support else "–",
            f"{100 * figures.f1:.1f}",
            f"{figures.support:,}",
        )
        for figures in report.figures()
    ]
    return TextTable(("class", "precision in %", "recall in %", "F1 in %", "images"), lines)


def confusion_table(report: ClassReport) -> TextTable:
    """Return the most frequent confusions."""
    lines: list[tuple[str, ...]] = [
        (printable(confusion.label), printable(confusion.prediction), f"{confusion.n_images:,}")
        for confusion in report.confusions
    ]
    return TextTable(("class", "classified as", "images"), lines)


def matrix_table(report: ClassReport, max_classes: int) -> TextTable | None:
    """Return the confusion matrix; None for more than ``max_classes`` classes."""
    if report.matrix is None or report.n_classes > max_classes:
        return None
    names = [printable(name) for name in report.names]
    rows = zip(names, report.matrix, strict=True)
    lines: list[tuple[str, ...]] = [(name, *(f"{n:,}" for n in row)) for name, row in rows]
    return TextTable(("class, by prediction", *names), lines)


def confusion_picture(snapshot: Snapshot) -> Picture | None:
    """Show the confusion matrix of the selected adapter."""
    report = snapshot.classes
    if report is None or report.matrix is None:
        return None
    # Axes of categories merge equal names, which shortened ones may be.
    names = [
        name if report.names.count(name) == 1 else f"{name} ({place})"
        for place, name in enumerate(report.names, 1)
    ]
    return Picture(
        name="confusion",
        title=f"Confusion matrix of the selected adapter on {report.split} images",
        caption="Each row is a class, each column a prediction. The diagonal has the images that "
        "are classified correctly. Darker cells have more images.",
        x=Axis("prediction"),
        y=Axis("class"),
        marks=(
            Grid(
                rows=names,
                columns=names,
                values=report.matrix,
                texts=[[f"{n:,}" if n else "" for n in row] for row in report.matrix],
                unit="images",
            ),
        ),
    )
