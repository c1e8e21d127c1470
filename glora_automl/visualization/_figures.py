"""Pictures of a study, as of :mod:`glora_automl.report`, for one that may be a user's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import optuna

from glora_automl.errors import ReportError
from glora_automl.problem import AdapterProblem
from glora_automl.report import (
    PICTURES,
    Grouping,
    Picture,
    Snapshot,
    check_grouping,
    importance_picture,
)
from glora_automl.study import is_glora_study

__all__ = ["draw", "draw_importances"]


def draw(
    study: optuna.Study,
    name: str,
    problem: AdapterProblem | None = None,
    make: Callable[[Snapshot], Picture | None] | None = None,
) -> Picture:
    """Return a picture of a study.

    Args:
        study: A study of ``glora search``, or one whose objective is that of ``problem``.
        name: Name of the picture.
        problem: The problem of a study that its user created.
        make: Makes the picture; by default the one of :data:`PICTURES`.

    Raises:
        ReportError: If the study is of neither kind, or has too few trials.
    """
    snapshot = Snapshot.of(study)
    if problem is not None:
        vars(snapshot).update(space=problem.space, budget=problem.budget, recipe=problem.recipe)
    elif not is_glora_study(study._storage, study.study_name):
        raise ReportError(
            f"study must be one of glora_automl, got {study.study_name!r}. Give the `problem` "
            "whose objective it has."
        )
    picture = (make or PICTURES[name])(snapshot)
    if picture is None:
        n_trials = len(snapshot.complete)
        raise ReportError(
            f"study must have enough trials for the picture {name!r}, got {n_trials} complete "
            "ones. Run more trials."
        )
    return picture


def draw_importances(
    study: optuna.Study, by: Grouping | None, problem: AdapterProblem | None
) -> Picture:
    """Return the picture of importances by one grouping; by the usual three for None."""
    groupings = None if by is None else [check_grouping(by)]
    return draw(study, "importance", problem, partial(importance_picture, groupings=groupings))
