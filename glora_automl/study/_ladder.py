"""Ladder: smaller and smaller adapters, each compared with the selected one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from glora_automl.study._paired import accuracy_loss_bound, n_images_needed
from glora_automl.study._record import Count, Record
from glora_automl.training import Score

__all__ = ["Ladder", "Step", "margin_note"]


def margin_note(margin: float, n_images: int) -> str | None:
    """Return why a margin cannot be shown with so few validation images; None if it can.

    Args:
        margin: Points of accuracy.
        n_images: Validation images.

    Example:
        >>> margin_note(1.0, 100)
        'A margin of 1 points takes 299 validation images even for equal predictions, got 100.'
        >>> margin_note(1.0, 299) is None
        True
    """
    needed = n_images_needed(0, 0, 1, margin / 100)
    assert needed is not None, "equal predictions lose nothing"
    if n_images >= needed:
        return None
    return (
        f"A margin of {margin:g} points takes {needed:,} validation images even for equal "
        f"predictions, got {n_images:,}."
    )


@dataclass(frozen=True)
class Step(Record):
    """A smaller adapter beside the selected one, on the same validation images.

    Attributes:
        budget: The most trainable parameters of the step.
        n_params: Its trainable parameters.
        n_bytes: Their size in memory.
        validation: Its score.
        n_lost: Images that only the selected adapter classifies correctly.
        n_gained: Images that only this one classifies correctly.

    Example:
        >>> step = Step(500, 480, 1920, Score(0.93, 0.2, 1000), n_lost=5, n_gained=4)
        >>> round(step.bound, 2), step.is_within(1.0), step.is_within(0.5)
        (0.67, True, False)
    """

    budget: Count
    n_params: Count
    n_bytes: Count
    validation: Score
    n_lost: Count
    n_gained: Count

    def __post_init__(self) -> None:
        if self.n_lost + self.n_gained > self.validation.n_images:
            raise ValueError("a step must have at least as many images as differences")

    @property
    def bound(self) -> float:
        """One-sided 95% upper bound of the loss in accuracy, in points."""
        n_images = self.validation.n_images
        return 100 * accuracy_loss_bound(self.n_lost, self.n_gained, n_images)

    def is_within(self, margin: float) -> bool:
        """Return whether the bound is at most a margin, in points."""
        return self.bound <= margin

    def n_images_needed(self, margin: float) -> int | None:
        """Return roughly how many images would show a margin; None for more than there can be."""
        counts = self.n_lost, self.n_gained, self.validation.n_images
        return n_images_needed(*counts, margin / 100)


@dataclass(frozen=True)
class Ladder(Record):
    """The selected adapter and smaller ones down to the first that may be worse.

    Attributes:
        margin: Points of accuracy that the smaller adapter may lose.
        name: Name of the selected adapter's row.
        n_params: Its trainable parameters.
        n_bytes: Their size in memory.
        validation: Its score.
        steps: The smaller adapters, largest first.

    Example:
        >>> score = Score(0.93, 0.2, 1000)
        >>> steps = Step(500, 480, 1920, score, 5, 4), Step(250, 240, 960, score, 20, 9)
        >>> ladder = Ladder(1.0, "searched", 1000, 4000, score, steps)
        >>> ladder.chosen.n_params
        480
        >>> for line in ladder.notes():
        ...     print(line)
        480 of 1,000 parameters are enough: the loss in accuracy is at most 0.67 points (margin 1).
        The next smaller one (240) loses 1.1 points on these images, more than the margin.
    """

    margin: Annotated[float, Field(gt=0, le=100)]
    name: str
    n_params: Count
    n_bytes: Count
    validation: Score
    steps: tuple[Step, ...] = ()

    @property
    def chosen(self) -> Step | None:
        """The smallest adapter that is not worse; None for the selected one itself."""
        chosen = None
        for step in self.steps:
            if not step.is_within(self.margin):
                break
            chosen = step
        return chosen

    def notes(self) -> list[str]:
        """Return sentences on the chosen adapter, and on the images that a smaller one needs."""
        note = margin_note(self.margin, self.validation.n_images)
        if note is not None:
            return [f"{note} No smaller adapter was trained."]
        chosen, margin = self.chosen, f"{self.margin:g}"
        if chosen is None:
            lines = [
                f"No adapter below {self.n_params:,} parameters is shown to be within {margin} "
                "points."
            ]
        else:
            lines = [
                f"{chosen.n_params:,} of {self.n_params:,} parameters are enough: the loss in "
                f"accuracy is at most {chosen.bound:.2f} points (margin {margin})."
            ]
        if self.steps and self.steps[-1] != chosen:
            lines.append(self._limit(self.steps[-1]))
        return lines

    def _limit(self, step: Step) -> str:
        """Return a sentence on the first step that may be worse."""
        begin = f"The next smaller one ({step.n_params:,})"
        needed = step.n_images_needed(self.margin)
        if needed is None:
            loss = 100 * (step.n_lost - step.n_gained) / step.validation.n_images
            return f"{begin} loses {loss:.1f} points on these images, more than the margin."
        return (
            f"{begin} may lose {step.bound:.2f} points. With the same differences, about "
            f"{needed:,} validation images would show the margin."
        )
