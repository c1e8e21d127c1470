"""Which blocks, kinds of layers and tensors matter."""

from __future__ import annotations

import warnings

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from glora_automl.report._picture import Axis, Bars, Color, Picture
from glora_automl.report._projection import Counts, Grouping
from glora_automl.report._snapshot import Snapshot
from glora_automl.storages import quiet_optuna

__all__ = ["importance_picture", "importances"]

FEWEST = 10
"""Trials below which nothing can be said."""

_SHOWN: dict[Grouping, Color] = {"block": "blue", "kind": "orange", "tensor": "green"}


def importances(snapshot: Snapshot, by: Grouping) -> dict[str, float]:
    """Shares of importance of the parameters that each group takes, most important first.

    PED-ANOVA (Watanabe et al., IJCAI 2023, as in Optuna) on the projected parameters: how much
    the counts of the best tenth of the trials differ from those of all. They add up to 1.

    Returns:
        Nothing if there are too few trials, or none is better than another.
    """
    if len(snapshot.complete) < FEWEST:
        return {}
    counts = Counts(snapshot.space, by)
    # In memory and projected: only what the evaluator looks at.
    with quiet_optuna():
        shown = optuna.create_study(direction="minimize")
    shown.add_trials(
        [_projected(trial, counts, snapshot.sign * trial.values[0]) for trial in snapshot.complete]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that all trials are equally good
        found = get_param_importances(shown, evaluator=PedAnovaImportanceEvaluator())
    total = sum(found.values())
    return {name: value / total for name, value in found.items()} if total > 0 else {}


def _projected(trial: FrozenTrial, counts: Counts, value: float) -> FrozenTrial:
    return optuna.create_trial(
        params=counts(trial.params), distributions={**counts.distributions}, value=value
    )


def importance_picture(snapshot: Snapshot) -> Picture | None:
    """Importance of blocks, of kinds of layers and of support tensors."""
    marks = []
    for by, color in _SHOWN.items():
        found = importances(snapshot, by)
        if len(found) > 1:
            order = sorted(found) if by == "block" else list(found)
            marks.append(Bars(f"by {by}", order, [round(found[n], 4) for n in order], color))
    if not marks:
        return None
    return Picture(
        name="importance",
        title="Where parameters matter",
        caption="How much the number of parameters in a place tells a good architecture from "
        "others (PED-ANOVA). The bars of a colour add up to 100%.",
        x=Axis("importance in %", percent=True, zero=True),
        y=Axis("place"),
        marks=tuple(marks),
    )
