"""Pictures of a search: Pareto front, history, generations, training loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial

from glora_automl.report._picture import Axis, Band, Color, Line, Mark, Picture, Points, Symbol
from glora_automl.report._snapshot import Snapshot
from glora_automl.report._tables import accuracy_interval
from glora_automl.samplers import is_feasible, trial_positions
from glora_automl.study import CONSTRAINT, Row, get_attribute, read_data

__all__ = [
    "adapters_picture",
    "front_picture",
    "generations_picture",
    "history_picture",
    "loss_picture",
]

MAX_POINTS = 1000
"""Most trials that a picture shows as points; larger studies are thinned out evenly."""


def front_picture(snapshot: Snapshot) -> Picture | None:
    """Show the first objective against trainable parameters, with Pareto front and budget."""
    trials = snapshot.counted
    if not trials:
        return None
    feasible = [t for t in trials if is_feasible(t)]
    infeasible = [t for t in trials if not is_feasible(t)]
    marks: list[Mark] = [_points("trials", _thinned(feasible), "blue")] if feasible else []
    if infeasible:
        marks.append(_points("over the budget", _thinned(infeasible), "red", "cross"))
    values = [t.values[0] for t in trials]
    marks.append(
        Line(
            f"budget, {snapshot.budget:,}",
            [snapshot.budget] * 2,
            [min(values), max(values)],
            "black",
            dashed=True,
        )
    )
    if snapshot.front:
        x, y = zip(*((t.user_attrs[CONSTRAINT], t.values[0]) for t in snapshot.front), strict=True)
        marks.append(Line("Pareto front", x, y, "orange", steps=True))
    return Picture(
        name="front",
        title=f"{snapshot.objective.capitalize()} against trainable parameters",
        caption=" ".join(
            [
                "Each point is a trial, evaluated with weights inherited from the supernet. No "
                "trial with as few parameters is better than one on the Pareto front.",
                *read_data(snapshot.study).holdout_notes(),
            ]
        ),
        x=Axis("trainable parameters"),
        y=_value_axis(snapshot),
        marks=tuple(marks),
    )


def _points(
    name: str, trials: Sequence[FrozenTrial], color: Color, symbol: Symbol = "dot"
) -> Points:
    return Points(
        name,
        [t.user_attrs[CONSTRAINT] for t in trials],
        [round(t.values[0], 6) for t in trials],
        color,
        symbol,
        [f"trial {t.number}" for t in trials],
    )


def _thinned(trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
    return trials[:: math.ceil(len(trials) / MAX_POINTS)]


def adapters_picture(snapshot: Snapshot) -> Picture | None:
    """Show the validation score of the trained adapters against trainable parameters.

    Their weights are trained. Those of trials are inherited, so both have pictures of their own.
    """
    marks = [*_results(snapshot), *_smallest(snapshot)]
    if not marks:
        return None
    return Picture(
        name="adapters",
        title=f"Trained adapters: {snapshot.objective} against trainable parameters",
        caption="The adapters of the result table, with trained weights, on the validation images."
        + (" A star is the smallest adapter within the margin." if snapshot.ladder else ""),
        x=Axis("trainable parameters"),
        y=_value_axis(snapshot),
        marks=tuple(marks),
    )


_COLORS: tuple[Color, ...] = ("blue", "orange", "green", "red", "grey")


def _results(snapshot: Snapshot) -> list[Mark]:
    """Return a mark for each adapter of the result table, named in the legend."""
    rows = [Row.from_json(row) for row in get_attribute(snapshot.study, "result") or ()]
    objective = snapshot.recipe.objective
    found = [
        (row.n_params, value, row.name)
        for row in rows
        if row.n_params is not None
        and row.validation is not None
        and (value := row.validation.value(objective)) is not None
    ]
    return [
        Points(name, [n_params], [value], _COLORS[place % len(_COLORS)], "diamond")
        for place, (n_params, value, name) in enumerate(found)
    ]


def _smallest(snapshot: Snapshot) -> list[Mark]:
    """Return the point of the smallest adapter that is not worse than the selected one."""
    ladder = snapshot.ladder
    if ladder is None:
        return []
    found = ladder.chosen or ladder
    value = found.validation.value(snapshot.recipe.objective)
    if value is None:
        return []
    name = f"smallest within {ladder.margin:g} points"
    return [Points(name, [found.n_params], [value], "black", "star", [f"{found.n_params:,}"])]


def history_picture(snapshot: Snapshot) -> Picture | None:
    """Show the first objective by trial, with the best value so far."""
    feasible = [t for t in snapshot.complete if is_feasible(t)]
    if not feasible:
        return None
    incumbents: list[FrozenTrial] = []
    for trial in feasible:
        if not incumbents or snapshot.sign * (trial.values[0] - incumbents[-1].values[0]) < 0:
            incumbents.append(trial)
    x = [*(t.number for t in incumbents), feasible[-1].number]
    y = [t.values[0] for t in (*incumbents, incumbents[-1])]
    band = _band(snapshot, incumbents, x)
    points = _thinned(feasible)
    title = f"Best {snapshot.objective} so far"
    caption = " ".join(
        [
            "Each point is a trial within the budget. The line is the best value so far.",
            *read_data(snapshot.study).holdout_notes(),
        ]
    )
    if band:
        title += ", with its 95% interval"
        caption += (
            " The band is Wilson's interval for other validation images of the same number. It "
            "ignores that the best of many trials is shown, whose accuracy is biased upwards."
        )
    return Picture(
        name="history",
        title=title,
        caption=caption,
        x=Axis("trial", whole=True),
        y=_value_axis(snapshot),
        marks=(
            *band,
            Points(
                "trials",
                [t.number for t in points],
                [round(t.values[0], 6) for t in points],
                "blue",
                texts=[f"trial {t.number}" for t in points],
            ),
            Line("best so far", x, y, "orange", steps=True),
        ),
    )


def _band(snapshot: Snapshot, trials: Sequence[FrozenTrial], x: Sequence[float]) -> list[Mark]:
    """Return the band of the accuracies' intervals; none for a loss, whose variance is unknown."""
    n_images = [int(t.user_attrs.get("validation_images") or 0) for t in trials]
    if not snapshot.is_accuracy or not all(n_images):
        return []
    ends = [accuracy_interval(t.values[0], n) for t, n in zip(trials, n_images, strict=True)]
    low, high = np.array([*ends, ends[-1]]).round(6).T.tolist()
    return [Band("95% interval", x, low, high, "orange", steps=True)]


def generations_picture(snapshot: Snapshot) -> Picture | None:
    """Show the spread of the first objective per generation."""
    positions = trial_positions(snapshot.trials)
    values: dict[int, list[float]] = {}
    for trial in snapshot.complete:
        if is_feasible(trial):
            generation = positions[trial.number] // snapshot.recipe.search.population_size
            values.setdefault(generation, []).append(trial.values[0])
    if len(values) < 2:
        return None
    order = sorted(values)
    quartiles = np.array([np.quantile(values[g], [0.25, 0.5, 0.75]) for g in order]).round(6)
    best = [min(values[g]) if snapshot.sign > 0 else max(values[g]) for g in order]
    low, median, high = quartiles.T.tolist()
    has_presets = bool((get_attribute(snapshot.study, "settings") or {}).get("initial"))
    return Picture(
        name="generations",
        title=f"{snapshot.objective.capitalize()} by generation",
        caption=f"A generation has {snapshot.recipe.search.population_size} trials. "
        + (f"{_first_text(snapshot)} " if has_presets else "")
        + "The values improve while the search makes progress, and their range narrows as it "
        "converges.",
        x=Axis("generation", whole=True),
        y=_value_axis(snapshot),
        marks=(
            Band("interquartile range", order, low, high, "blue"),
            Line("median", order, median, "blue"),
            Line("best", order, best, "orange"),
        ),
    )


def _first_text(snapshot: Snapshot) -> str:
    """Return a sentence on the first generation."""
    recipe = snapshot.recipe
    is_wide = recipe.supernet.paths == "wide" and recipe.search.sampler == "evolution"
    begin = "the largest truncation of the supernet and presets" if is_wide else "presets"
    return f"The first begins with {begin}, and is filled with random architectures."


def loss_picture(snapshot: Snapshot) -> Picture | None:
    """Show the training loss of the supernet."""
    supernet = get_attribute(snapshot.study, "supernet") or {}
    losses = supernet.get("losses")
    if not losses:
        return None
    return Picture(
        name="supernet",
        title="Training loss of the supernet",
        caption="Mean training loss per epoch. Trials inherit their weights from the supernet.",
        x=Axis("epoch", whole=True),
        y=Axis("cross-entropy", zero=True),
        marks=(Line("training loss", list(range(1, len(losses) + 1)), losses, "blue"),),
    )


def _value_axis(snapshot: Snapshot) -> Axis:
    return Axis(snapshot.value_title, percent=snapshot.in_percent)
