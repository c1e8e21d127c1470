"""The best trials of a study and its Pareto front."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from glora_automl.recipes import Recipe
from glora_automl.samplers import DONE, is_feasible, pareto_front, score_trial, sort_trials
from glora_automl.training import is_minimized

__all__ = [
    "CONSTRAINT",
    "best_trials",
    "direction_text",
    "directions_of",
    "done_trials",
    "name_objectives",
    "objective_name",
    "pareto_trials",
]

CONSTRAINT = "trainable_params"
"""Name of the budget constraint, and of the attribute with the number of parameters."""


def done_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete and pruned trials, by number."""
    return study.get_trials(deepcopy=False, states=DONE)


def objective_name(study: optuna.Study) -> str:
    """Return the name of the first objective."""
    names = study.metric_names
    return names[0].replace("_", " ") if names else "objective"


def best_trials(
    study: optuna.Study, n_trials: int, *, within: int | None = None, fullness: float = 0.0
) -> list[FrozenTrial]:
    """Return the best feasible trials by the first objective, best first.

    The trials differ in their parameters.

    Args:
        study: The study.
        n_trials: Maximum number of trials.
        within: Maximum number of trainable parameters, if less than the budget. A trial whose
            number is unknown, such as one that a user added, is left out.
        fullness: Smallest number of trainable parameters, as a fraction of the largest trial's.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    trials = list(filter(is_feasible, complete))
    if within is not None:
        trials = [t for t in trials if t.user_attrs.get(CONSTRAINT, math.inf) <= within]
    if fullness:
        least = fullness * max((t.user_attrs.get(CONSTRAINT, 0) for t in trials), default=0)
        trials = [t for t in trials if t.user_attrs.get(CONSTRAINT, 0) >= least]
    return sort_trials(trials, study.directions[:1], n_trials)


def pareto_trials(trials: Iterable[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
    """Return the Pareto front of feasible trials in number of parameters and first objective.

    Args:
        trials: Trials of one study, with any number of objectives. One whose number of parameters
            is unknown is left out.
        direction: The first direction of the study.

    Returns:
        The front, fewest parameters first. Of equal trials it holds the earliest.
    """
    counted = (t for t in trials if CONSTRAINT in t.user_attrs)
    feasible = sort_trials(filter(is_feasible, counted), [direction])
    losses = np.array(
        [(t.user_attrs[CONSTRAINT], *score_trial(t, [direction]).losses) for t in feasible]
    )
    # In reverse order, so that the earliest of equal trials remains.
    front = {tuple(losses[i]): feasible[i] for i in np.flatnonzero(pareto_front(losses))[::-1]}
    return [front[key] for key in sorted(front)]


def directions_of(objective: str, is_multi_objective: bool) -> list[StudyDirection]:
    """Return the direction of each objective, of which a second one is the parameters."""
    minimize, maximize = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
    first = minimize if is_minimized(objective) else maximize
    return [first, minimize] if is_multi_objective else [first]


def direction_text(directions: Iterable[StudyDirection]) -> str:
    """Return directions as messages name them.

    Example:
        >>> direction_text(directions_of("accuracy", True))
        'maximize, minimize'
    """
    return ", ".join(direction.name.lower() for direction in directions)


def name_objectives(study: optuna.Study, recipe: Recipe) -> None:
    """Name the values of a study's trials for Optuna."""
    names = [f"validation_{recipe.objective}", CONSTRAINT]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(names[: len(study.directions)])
