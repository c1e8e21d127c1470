"""The objective of a search: score an architecture with the supernet's weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import optuna
import torch
from optuna.study import StudyDirection

from glora_automl.architecture import Architecture
from glora_automl.errors import StudyError
from glora_automl.search_space import SearchSpace
from glora_automl.study import CONSTRAINT, direction_text, directions_of
from glora_automl.training import Score
from glora_automl.workers import Evaluation, Meter

__all__ = ["Objective", "ScoresArchitectures", "trial_values"]


class ScoresArchitectures(Protocol):
    """Scores architectures on the validation images, such as a supernet's scorer."""

    def score(self, architecture: Architecture, /) -> Score:
        """Return the score of an architecture."""


def trial_values(objective: str, score: Score, n_params: int | None = None) -> tuple[float, ...]:
    """Return the values of a trial, one per objective.

    Args:
        objective: The first objective: ``loss``, ``accuracy`` or another metric.
        score: Score on the validation images.
        n_params: Trainable parameters, where they are an objective.
    """
    value = score.value(objective)
    assert value is not None, "the scorer has no score function"
    return (value,) if n_params is None else (value, float(n_params))


class Objective:
    """An Optuna objective over the architectures of a search space.

    It suggests one categorical parameter per support tensor and sets the constraint
    ``trainable_params``, which is at most 0 within the budget. Trials keep parameters, validation
    accuracy, loss and seconds as attributes.

    Args:
        space: The search space.
        budget: The most trainable parameters.
        scorer: Returns the scorer; called at the first evaluation.
        name: Name of the first objective: ``loss``, ``accuracy``, or that of the scorer's score
            function, which is maximized except ``log_loss``.
        multi_objective: Whether few parameters are an objective, too.
        device: Device whose memory and energy are measured.

    Example:
        >>> from glora_automl.architecture import LayerShape
        >>> from glora_automl.search_space import load_search_space
        >>> space = SearchSpace(load_search_space("lean"), {"fc": LayerShape(8, 8)})
        >>> class Counts:
        ...     def score(self, architecture):
        ...         return Score(architecture.count(space.shapes) / 200, 1.0, 10)
        >>> objective = Objective(space, 60, Counts, "accuracy")
        >>> study = optuna.create_study(direction="maximize")
        >>> study.enqueue_trial({"fc.A": "none", "fc.B": "lora-2", "fc.C": "none", "fc.E": "none"})
        >>> study.optimize(objective, n_trials=1)
        >>> study.best_value, study.best_trial.constraints["trainable_params"]
        (0.16, -28.0)
    """

    def __init__(
        self,
        space: SearchSpace,
        budget: int,
        scorer: Callable[[], ScoresArchitectures],
        name: str,
        *,
        multi_objective: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self._space = space
        self._budget = budget
        self._make_scorer = scorer
        self._scorer: ScoresArchitectures | None = None
        self._name = name
        self._multi_objective = multi_objective
        self._device = device or torch.device("cpu")

    def __call__(self, trial: optuna.Trial) -> float | Sequence[float]:
        """Return the value of a trial, or its values with several objectives.

        Raises:
            StudyError: If the study has other directions.
        """
        study = getattr(trial, "study", None)  # Optuna's FixedTrial has none
        if study is not None and study.directions != self.directions:
            raise StudyError(
                f"The study must have the directions {direction_text(self.directions)}, got "
                f"{direction_text(study.directions)}. Set `direction` of optuna.create_study."
            )
        values, attributes, _pruned = self.propose(trial)()
        for key, attribute in attributes.items():
            trial.set_user_attr(key, attribute)
        return values if self._multi_objective else values[0]

    def propose(self, trial: optuna.Trial) -> Callable[[], Evaluation]:
        """Suggest all parameters of a trial; return the function that evaluates them."""
        params = {
            dimension.name: trial.suggest_categorical(dimension.name, dimension.choices)
            for dimension in self._space.dimensions
        }
        n_params = self._space.count(params)
        # A retried trial has its constraint already. User attributes say nothing of it: an enqueued
        # trial may bring those of another study.
        if CONSTRAINT not in trial.constraints:
            trial.set_constraint(CONSTRAINT, n_params - self._budget)
        if trial.user_attrs.get(CONSTRAINT) != n_params:
            trial.set_user_attr(CONSTRAINT, n_params)
        return partial(self._evaluate, params, n_params)

    def _evaluate(self, params: dict[str, str], n_params: int) -> Evaluation:
        if self._scorer is None:
            self._scorer = self._make_scorer()
        begin, meter = time.perf_counter(), Meter(self._device)
        score = self._scorer.score(self._space.architecture(params))
        return Evaluation(
            trial_values(self._name, score, n_params if self._multi_objective else None),
            {
                "validation_accuracy": score.accuracy,
                "validation_loss": score.loss,
                "validation_images": score.n_images,
                "seconds": round(time.perf_counter() - begin, 6),
                **meter.read(),
            },
        )

    def __getstate__(self) -> dict[str, object]:
        """Return the state without the scorer, which another process makes anew."""
        return {**vars(self), "_scorer": None}

    @property
    def directions(self) -> list[StudyDirection]:
        """Directions of the values."""
        return directions_of(self._name, self._multi_objective)
