"""What a study found, as values that go through JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glora_automl.training import Score

__all__ = ["CONTROLS_ASIDE", "Row", "Selection", "best_row", "is_better", "quality"]

CONTROLS_ASIDE = "searched, controls aside"
"""Name of the row of what a search has found, where a control was chosen instead."""


@dataclass(frozen=True)
class Row:
    """A line of the result table.

    Attributes:
        name: What was trained.
        n_params: Trainable adapter parameters; None if nothing fits the budget.
        validation: Score on the validation images.
        test: Score on the test images, if there are any.
        n_images: Images trained on, repeated ones counted each time.
        seconds: Wall time of all that the arm took: for the searched adapter that is supernet,
            search and selection, and with a contest the controls that it had to beat; likewise the
            images.
        domains: Scores on the test sets of other domains, by name.
    """

    name: str
    n_params: int | None = None
    validation: Score | None = None
    test: Score | None = None
    n_images: int = 0
    seconds: float = 0.0
    domains: Mapping[str, Score] = field(default_factory=dict)

    @property
    def domain_mean(self) -> float | None:
        """Mean accuracy over the other domains, each counting the same; None without any."""
        if not self.domains:
            return None
        return sum(score.accuracy for score in self.domains.values()) / len(self.domains)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        table = dict(self.__dict__)
        for key in ("validation", "test"):
            table[key] = None if table[key] is None else table[key]._asdict()
        table["domains"] = {name: score._asdict() for name, score in self.domains.items()}
        return table

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Row:
        """The inverse of :meth:`to_json`."""
        domains = {name: Score(**score) for name, score in table.get("domains", {}).items()}
        return cls(**{**table, **_scores(table, "validation", "test"), "domains": domains})


@dataclass(frozen=True)
class Selection:
    """Which architecture was chosen, and how it was scored on the validation images.

    Attributes:
        trial: Number of the trial that proposed it, or that stands for one that was given; None
            for a control.
        architecture: Its printed form.
        n_params: Its trainable parameters.
        inherited: Score with the supernet's weights, or of one that was given after its training.
        finetuned: Score after training on; None if that was switched off.
        retrained: Score after it was trained alone; None without a contest of the candidates.
        candidates: Numbers of the trials that were scored again, best first.
        cross_validated: Score in the cross-validation by which it was chosen; None if it was
            chosen by its inherited score.
        baseline: Name of the control that was chosen, as it validates better than what was found;
            None if none does. Its score is then told as inherited and as retrained.
    """

    trial: int | None
    architecture: str
    n_params: int
    inherited: Score
    finetuned: Score | None
    candidates: tuple[int, ...]
    cross_validated: Score | None = None
    retrained: Score | None = None
    baseline: str | None = None

    _SCORES = ("inherited", "finetuned", "cross_validated", "retrained")

    @property
    def weights(self) -> str:
        """Which weights are kept: ``inherited``, ``fine-tuned`` or ``retrained``.

        Training on is kept where it helped on the validation images.
        """
        if self.retrained is not None:
            return "retrained"
        if self.finetuned is not None and not is_better(self.inherited, self.finetuned):
            return "fine-tuned"
        return "inherited"

    @property
    def origin(self) -> str:
        """What proposed it, for people: a trial or a control."""
        return f"trial {self.trial}" if self.baseline is None else f"control {self.baseline}"

    @property
    def score(self) -> Score:
        """Of the weights that are kept."""
        scores = {"fine-tuned": self.finetuned, "retrained": self.retrained}
        return scores.get(self.weights) or self.inherited

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        table = dict(self.__dict__)
        for key in self._SCORES:
            table[key] = None if table[key] is None else table[key]._asdict()
        return table

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Selection:
        """The inverse of :meth:`to_json`."""
        scores = _scores(table, *cls._SCORES)
        return cls(**{**table, **scores, "candidates": tuple(table["candidates"])})


def _scores(table: dict[str, Any], *keys: str) -> dict[str, Score | None]:
    return {key: None if table.get(key) is None else Score(**table[key]) for key in keys}


def quality(score: Score) -> tuple[float, float]:
    """Orders scores on the same images, higher is better: by calibrated loss, then by accuracy.

    On some hundred images accuracies of adapters that differ are level, or apart by chance.

    Args:
        score: With a calibrated loss.

    Example:
        >>> one, other = Score(0.72, 1.9, 150, 0.81), Score(0.72, 1.7, 150, 0.84)
        >>> max(quality(one), quality(other))
        (-0.81, 0.72)
    """
    assert score.scaled_loss is not None, "what was trained is scored with a calibrated loss"
    return -score.scaled_loss, score.accuracy


def is_better(score: Score, other: Score) -> bool:
    """Whether a score is better than another one on the same images; see :func:`quality`."""
    return quality(score) > quality(other)


def best_row(rows: Sequence[Row]) -> Row:
    """The row that validates best; of equal ones the first.

    Args:
        rows: At least one; all have a validation score.
    """
    scored = [(row, row.validation) for row in rows if row.validation is not None]
    return max(scored, key=lambda pair: quality(pair[1]))[0]
