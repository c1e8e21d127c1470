"""Ranking of the candidates for a study's backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import optuna

from glora_automl.study._costs import attempts, find_stages
from glora_automl.study._outcomes import NOTHING, Spent
from glora_automl.study._record import Record
from glora_automl.study._stages import Stage

__all__ = ["RankedBackbone", "RankingOutcome", "read_ranking"]


class RankedBackbone(NamedTuple):
    """A candidate for the backbone.

    Attributes:
        name: The model, with its checkpoint file if it has one.
        n_params: Parameters without the classifier; None if the model could not be created.
        latency_ms: Time of a forward pass at batch size 1; None if it was not measured.
        accuracy: Leave-one-out accuracy of a ridge classifier on frozen features; None if the
            candidate cannot be used.
        seconds: Wall time of its part of the ranking.
        reason: Reason that the candidate cannot be used.
    """

    name: str
    n_params: int | None = None
    latency_ms: float | None = None
    accuracy: float | None = None
    seconds: float = 0.0
    reason: str | None = None


@dataclass(frozen=True)
class RankingOutcome(Record):
    """The candidates for the backbone of a study.

    Attributes:
        rows: The candidates, in the order of the recipe.
        chosen: Position of the backbone among them.
        n_images: Training images that each candidate saw.
        device: Device of the features and the latencies.
        spent: Work of the stage.
    """

    rows: tuple[RankedBackbone, ...]
    chosen: int
    n_images: int
    device: str
    spent: Spent = NOTHING


def read_ranking(study: optuna.Study) -> RankingOutcome | None:
    """Return how a study chose its backbone; None if its recipe names one.

    Raises:
        StudyError: If the study was altered.
    """
    for trial in attempts(study, find_stages(study)):
        if trial.user_attrs.get("stage") == Stage.BACKBONES:
            return RankingOutcome.from_json(trial.user_attrs["outcome"])
    return None
