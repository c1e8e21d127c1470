"""What a study keeps about its images: sizes, copies between splits, classes without images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import optuna
from pydantic import Field

from glora_automl._messages import short
from glora_automl.study._load import get_attribute
from glora_automl.study._record import Count, Record

__all__ = ["Absent", "DataSummary", "Majority", "Overlap", "read_data"]

STEERING = ("train", "validation")
"""Splits that a search sees."""


class Overlap(NamedTuple):
    """Copies of one split's images in another split.

    Attributes:
        first: One split.
        second: The other split.
        n_images: Images of the second split with the pixels of an image of the first.
    """

    first: str
    second: str
    n_images: int


class Absent(NamedTuple):
    """Classes without an image in a split.

    Attributes:
        split: The split.
        n_classes: Number of such classes.
        names: The first of their names.
    """

    split: str
    n_classes: int
    names: tuple[str, ...]


class Majority(NamedTuple):
    """The largest class of the training images, as a prediction for all images of a split.

    Attributes:
        name: Name of the class.
        split: ``test``, or ``validation`` without test images.
        n_correct: Images of the class in the split.
        n_images: Images of the split.
    """

    name: str
    split: Literal["test", "validation"]
    n_correct: Count
    n_images: Annotated[int, Field(ge=1)]

    @property
    def accuracy(self) -> float:
        """Accuracy of the prediction."""
        return self.n_correct / self.n_images


@dataclass(frozen=True)
class DataSummary(Record):
    """The images of a study, and what limits the meaning of its figures.

    Attributes:
        n_images: Images per split and further test domain.
        overlaps: Copies between splits.
        absent: Classes without an image in a split.
        n_contradictions: Images that have a copy of another class.
        n_dark: Train images that are almost black.
        majority: The largest class; None in a study of an earlier version.
        holds_out: Whether the validation images are held out until the refit.

    Example:
        >>> data = DataSummary({"train": 8, "test": 4}, (Overlap("train", "test", 1),))
        >>> data.notes()
        ['1 of 4 test images is a copy of a train image: the test accuracy is too high.']
    """

    n_images: Mapping[str, int] = field(default_factory=dict)
    overlaps: tuple[Overlap, ...] = ()
    absent: tuple[Absent, ...] = ()
    n_contradictions: int = 0
    n_dark: int = 0
    majority: Majority | None = None
    holds_out: bool = True

    def captions(self) -> list[str]:
        """Return the lines below a table: what its accuracies mean, then the notes."""
        return [*self.accuracy_notes(), *self.notes()]

    def accuracy_notes(self) -> list[str]:
        """Return sentences on the majority class and on held-out images."""
        return [*self.majority_notes(), *self.holdout_notes()]

    def holdout_notes(self) -> list[str]:
        """Return a sentence on the losses of trials, if no images are held out.

        Example:
            >>> DataSummary(holds_out=False).holdout_notes()[0].partition(":")[0]
            'The validation images were trained on, too'
        """
        if self.holds_out:
            return []
        return [
            "The validation images were trained on, too: losses of trials rank architectures, and "
            "only test images measure accuracy."
        ]

    def majority_notes(self) -> list[str]:
        """Return a sentence on the accuracy of the majority class, if it is known."""
        if self.majority is None:
            return []
        name, split = short(self.majority.name, 40), self.majority.split
        accuracy = f"{100 * self.majority.accuracy:.1f}%"
        return [f"Majority class ({name}): accuracy {accuracy} on {split} images."]

    def notes(self) -> list[str]:
        """Return sentences for people, the most important first."""
        return [
            *(self._overlap_text(overlap) for overlap in self.overlaps),
            *(_absent_text(absent) for absent in self.absent),
            *self._contradiction_texts(),
            *self._dark_texts(),
        ]

    def _contradiction_texts(self) -> list[str]:
        count = self.n_contradictions
        return [f"{count:,} images have copies of another class."] if count else []

    def _overlap_text(self, overlap: Overlap) -> str:
        first, second = (short(name, 40)[1:-1] for name in overlap[:2])
        is_one = overlap.n_images == 1
        is_measured = second != "validation" or self.holds_out
        is_high = overlap.first in STEERING and is_measured
        effect = f": the {second} accuracy is too high" if is_high else ""
        return (
            f"{overlap.n_images:,} of {self.n_images.get(overlap.second, 0):,} {second} images "
            f"{'is a copy' if is_one else 'are copies'} of {'a ' if is_one else ''}{first} "
            f"image{'' if is_one else 's'}{effect}."
        )

    def _dark_texts(self) -> list[str]:
        n_train = self.n_images.get("train", 0)
        if not n_train or self.n_dark < 0.9 * n_train:
            return []
        return [
            f"{self.n_dark:,} of {n_train:,} train images are almost black. For fewer than 16 bits "
            "in 16-bit files, set `task.value_range`, such as [0, 4095] for 12 bits."
        ]


def _absent_text(absent: Absent) -> str:
    listed = ", ".join(short(name, 40) for name in absent.names)
    more = " and others" if absent.n_classes > len(absent.names) else ""
    classes = "1 class has" if absent.n_classes == 1 else f"{absent.n_classes:,} classes have"
    return f"{classes} no {absent.split} image: {listed}{more}."


def read_data(study: optuna.Study) -> DataSummary:
    """Return what a study keeps about its images; an empty summary before it is written.

    Raises:
        StudyError: If the study was altered.
    """
    found = get_attribute(study, "data")
    return DataSummary() if found is None else DataSummary.from_json(found)
