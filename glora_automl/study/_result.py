"""What a study found: rows of the result table and the selected architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from glora_automl.study._record import Count, Record, Seconds
from glora_automl.study._stages import Stage
from glora_automl.training import MetricName, Score, is_minimized

__all__ = ["SEARCHED", "Row", "Selection", "best_row", "is_better", "quality"]

SEARCHED = "searched"
"""Name of the row of the searched architecture."""


@dataclass(frozen=True)
class Row(Record):
    """A row of the result table.

    Attributes:
        name: What was trained.
        n_params: Trainable adapter parameters; None if nothing fits the budget.
        validation: Score on held-out validation images, before any refit; None without.
        test: Score on the test images, if there are any.
        n_images: Images of all training steps, counted once per step that uses them.
        seconds: Wall time of all stages of the row: for the searched architecture those of
            tuning, supernet, search, selection, ladder and refit.
        domains: Scores on the test sets of other domains, by name.
        n_evaluated: Images of all evaluations before the test.
    """

    name: str
    n_params: Count | None = None
    validation: Score | None = None
    test: Score | None = None
    n_images: Count = 0
    seconds: Seconds = 0.0
    domains: Mapping[str, Score] = field(default_factory=dict)
    n_evaluated: Count = 0

    @property
    def domain_mean(self) -> float | None:
        """Mean accuracy over the other domains, with equal weights; None without any."""
        if not self.domains:
            return None
        return sum(score.accuracy for score in self.domains.values()) / len(self.domains)


@dataclass(frozen=True)
class Selection(Record):
    """The selected architecture and its scores on held-out validation images.

    Attributes:
        architecture: Its printed form.
        n_params: Its trainable parameters.
        trial: Number of the trial that proposed it; None for a preset, and for a truncation of the
            supernet that is no trial.
        preset: Name of the preset, where a baseline was selected or a preset was trained.
        inherited: Score with the supernet's weights; None for a preset, or without held-out images.
        trained: Score after training on the training images; None if no images were held out.
        candidates: Numbers of the trials that took part, best first.
        refit: Whether the final weights were trained on the validation images, too.
        stage: The stage that trained it for its validation.
    """

    architecture: str
    n_params: Count
    trained: Score | None = None
    trial: Count | None = None
    preset: str | None = None
    inherited: Score | None = None
    candidates: tuple[Count, ...] = ()
    refit: bool = False
    stage: str = str(Stage.SELECTION)

    @property
    def weights(self) -> Literal["refit", "trained"]:
        """Which weights are kept."""
        return "refit" if self.refit else "trained"

    @property
    def weights_stage(self) -> str:
        """Name of the stage whose weights are kept."""
        if self.preset is not None or not self.refit:
            return self.stage  # a baseline has one stage for both
        return str(Stage.REFIT) if self.stage == Stage.SELECTION else f"{self.stage}-refit"

    @property
    def origin(self) -> str:
        """Return the source of the architecture, for people.

        Example:
            >>> Selection("fc: none", 0, preset="linear probe").origin
            'linear probe'
            >>> Selection("fc: none", 0, trial=7).origin
            'trial 7'
        """
        if self.preset is not None:
            return self.preset
        return "truncation of the supernet" if self.trial is None else f"trial {self.trial}"


def quality(score: Score, metric: MetricName = "accuracy") -> tuple[float, ...]:
    """Return a sort key of scores on the same images; higher is better.

    The key is the temperature-scaled loss, then the accuracy. On a few hundred images accuracies
    of different adapters are often equal. Another metric than the accuracy comes before both.

    Args:
        score: A score with a temperature-scaled loss.
        metric: The recipe's metric, whose value is ``score.custom``.

    Example:
        >>> one, other = Score(0.72, 1.9, 150, 0.81), Score(0.72, 1.7, 150, 0.84)
        >>> max(quality(one), quality(other))
        (-0.81, 0.72)
    """
    assert score.scaled_loss is not None, "trained models are scored with temperature scaling"
    key = -score.scaled_loss, score.accuracy
    if metric == "accuracy":
        return key
    if score.custom is None:
        return -math.inf, *key
    return -score.custom if is_minimized(metric) else score.custom, *key


def is_better(score: Score, other: Score, metric: MetricName = "accuracy") -> bool:
    """Return whether a score beats another one on the same images; see :func:`quality`."""
    return quality(score, metric) > quality(other, metric)


def best_row(rows: Sequence[Row], metric: MetricName = "accuracy") -> Row | None:
    """Return the row with the best validation score, the first of equal ones; None without any.

    Args:
        rows: The rows.
        metric: The recipe's metric.
    """
    scored = [(row, row.validation) for row in rows if row.validation is not None]
    if not scored:
        return None
    return max(scored, key=lambda pair: quality(pair[1], metric))[0]
