"""Which trials of a study are the best: at any price, and for what they cost."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from glora_automl.samplers import DONE, pareto_front

__all__ = [
    "CONSTRAINT",
    "best_of",
    "best_trials",
    "done_trials",
    "front_of",
    "objective_name",
    "rank",
]

CONSTRAINT = "trainable_params"
"""Name of the constraint, and of the attribute with a trial's number of parameters."""


def done_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were evaluated, or stopped as they were of no use, by number."""
    return study.get_trials(deepcopy=False, states=DONE)


def objective_name(study: optuna.Study) -> str:
    """What the first objective of a study is called."""
    names = study.metric_names
    return names[0].replace("_", " ") if names else "objective"


def rank(trial: FrozenTrial, direction: StudyDirection) -> tuple[float, float, int]:
    """Lower is better: feasible trials by their first value, the others by violation; the earlier.

    Args:
        trial: A complete trial.
        direction: The first direction of its study.
    """
    violation = max(0.0, trial.constraints.get(CONSTRAINT, 0.0))
    return violation, _loss(trial, direction), trial.number


def _loss(trial: FrozenTrial, direction: StudyDirection) -> float:
    value = float(trial.values[0])
    return value if direction == StudyDirection.MINIMIZE else -value


def best_trials(study: optuna.Study, count: int, *, within: int | None = None) -> list[FrozenTrial]:
    """The best feasible trials with different parameters, best first.

    Args:
        study: A study of ours.
        count: How many to take.
        within: The most parameters they may have, if that is less than the budget.
    """
    trials = study.get_trials(deepcopy=False)
    if within is not None:
        trials = [t for t in trials if t.user_attrs.get(CONSTRAINT, within) <= within]
    return best_of(trials, study.directions[0], count)


def best_of(
    trials: Iterable[FrozenTrial], direction: StudyDirection, count: int
) -> list[FrozenTrial]:
    """The best feasible of the complete ones among trials, with different parameters."""
    complete = (t for t in trials if t.state == TrialState.COMPLETE)
    found: dict[frozenset[tuple[str, str]], FrozenTrial] = {}
    for trial in sorted(complete, key=lambda t: rank(t, direction)):
        if len(found) == count or rank(trial, direction)[0] > 0:
            break
        found.setdefault(frozenset(trial.params.items()), trial)
    return list(found.values())


def front_of(trials: Iterable[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
    """The feasible trials that no other is better than with as few parameters, smallest first.

    Args:
        trials: Trials of a study of ours, whatever its objectives.
        direction: The first direction of the study.
    """
    trials = list(trials)
    feasible = best_of(trials, direction, len(trials))
    if not feasible:
        return []
    losses = np.array([(t.user_attrs[CONSTRAINT], _loss(t, direction)) for t in feasible])
    # Best first, so of equal ones the earlier trial stays.
    front = {tuple(losses[i]): feasible[i] for i in np.flatnonzero(pareto_front(losses))[::-1]}
    return [front[key] for key in sorted(front)]
