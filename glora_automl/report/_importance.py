"""Importance of blocks, kinds of layers and support tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import optuna
from optuna.trial import FrozenTrial

from glora_automl.report._picture import Axis, Bars, Color, Picture
from glora_automl.report._projection import Counts, Grouping
from glora_automl.report._snapshot import Snapshot
from glora_automl.storages import quiet_optuna

__all__ = ["importance_picture", "importances"]

MIN_TRIALS = 10
"""Complete trials below which importance is not estimated."""

_COLORS: dict[Grouping, Color] = {
    "block": "blue",
    "kind": "orange",
    "tensor": "green",
    "layer": "black",
}
_WORDS: dict[Grouping, str] = {
    "block": "blocks",
    "kind": "kinds of layers",
    "tensor": "support tensors",
    "layer": "layers",
}


def importances(snapshot: Snapshot, by: Grouping) -> dict[str, float]:
    """Return the importance of the trainable parameters per group, most important first.

    PED-ANOVA (Watanabe et al., IJCAI 2023, as in Optuna) compares the counts of the best 10% of
    the trials with those of all trials. Importances add up to 1.

    Returns:
        An empty dict for fewer than ``MIN_TRIALS`` trials, or if all trials are equally good.
    """
    counts = Counts(snapshot.space, by)
    trials = list(_projected(snapshot, counts))
    if len(trials) < MIN_TRIALS:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with quiet_optuna():
        projected = optuna.create_study(direction="minimize")
    projected.add_trials(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PED-ANOVA warns if all trials are equally good
        found = get_param_importances(projected, evaluator=PedAnovaImportanceEvaluator())
    total = sum(found.values())
    return {name: value / total for name, value in found.items()} if total > 0 else {}


def _projected(snapshot: Snapshot, counts: Counts) -> Iterator[FrozenTrial]:
    """Yield the complete trials with counts as parameters."""
    for trial in snapshot.complete:
        try:
            params = counts(trial.params)
        except ValueError:  # a trial that a user added, with other parameters
            continue
        if params:
            value = snapshot.sign * trial.values[0]
            yield optuna.create_trial(
                params=params, distributions={**counts.distributions}, value=value
            )


def importance_picture(
    snapshot: Snapshot, groupings: Sequence[Grouping] | None = None
) -> Picture | None:
    """Show the importance of groups; by default of blocks, kinds of layers and support tensors."""
    marks = []
    for by in groupings or ("block", "kind", "tensor"):
        color = _COLORS[by]
        found = importances(snapshot, by)
        if len(found) > 1:
            order = sorted(found) if by == "block" else list(found)
            marks.append(Bars(f"by {by}", order, [round(found[n], 4) for n in order], color))
    if not marks:
        return None
    return Picture(
        name="importance",
        title="Importance of "
        + (
            "blocks, kinds of layers and support tensors"
            if groupings is None
            else ", ".join(_WORDS[by] for by in groupings)
        ),
        caption="PED-ANOVA: how far the trainable parameters of a group differ between the best "
        "10% of the trials and all trials. Bars of one colour add up to 100%.",
        x=Axis("importance in %", percent=True, zero=True),
        y=Axis("group"),
        marks=tuple(marks),
    )
