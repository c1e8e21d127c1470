"""Pictures of how a search went."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial

from glora_automl.report._picture import Axis, Band, Color, Line, Mark, Picture, Points, Symbol
from glora_automl.report._snapshot import Snapshot, is_feasible
from glora_automl.report._tables import accuracy_interval
from glora_automl.samplers import trial_positions
from glora_automl.study import CONSTRAINT, get_attribute

__all__ = [
    "front_picture",
    "generations_picture",
    "history_picture",
    "loss_picture",
]

DRAWN = 1000
"""Most trials that are drawn as points; beyond, one in so many."""


def front_picture(snapshot: Snapshot) -> Picture | None:
    """The first objective against parameters, with the front and the budget."""
    seen = snapshot.sized
    if not seen:
        return None
    inside = [t for t in seen if is_feasible(t)]
    outside = [t for t in seen if not is_feasible(t)]
    marks: list[Mark] = [_points("trials", _thinned(inside), "blue")] if inside else []
    if outside:
        marks.append(_points("over the budget", _thinned(outside), "red", "cross"))
    values = [t.values[0] for t in seen]
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
        marks.append(Line("front", x, y, "orange", steps=True))
    marks += _results(snapshot)
    return Picture(
        name="front",
        title=f"{snapshot.objective.capitalize()} against parameters",
        caption="Each point is an architecture with the supernet's weights. Those on the front "
        "are the best of their size; the diamonds were trained on their own.",
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
    return trials[:: math.ceil(len(trials) / DRAWN)]


def _results(snapshot: Snapshot) -> list[Mark]:
    """What was trained on its own: the winner and the controls."""
    rows = [row for row in get_attribute(snapshot.study, "result") or () if row["validation"]]
    if not rows:
        return []
    return [
        Points(
            "winner and controls",
            [row["n_params"] for row in rows],
            [row["validation"][snapshot.recipe.search.metric] for row in rows],
            "green",
            "diamond",
            [row["name"] for row in rows],
        )
    ]


def history_picture(snapshot: Snapshot) -> Picture | None:
    """Value by trial, with the best so far."""
    inside = [t for t in snapshot.complete if is_feasible(t)]
    if not inside:
        return None
    leaders: list[FrozenTrial] = []
    for trial in inside:
        if not leaders or snapshot.sign * (trial.values[0] - leaders[-1].values[0]) < 0:
            leaders.append(trial)
    x = [*(t.number for t in leaders), inside[-1].number]
    y = [t.values[0] for t in (*leaders, leaders[-1])]
    band = _band(snapshot, leaders, x)
    drawn = _thinned(inside)
    title = "Best so far"
    caption = "Each point is a trial within the budget; the line is the best until then."
    if band:
        title += ", with the 95% interval of its accuracy"
        caption += (
            " The band is Wilson's interval: what as many other images would make of that "
            "accuracy. It does not know that the best of many was taken, which flatters."
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
                [t.number for t in drawn],
                [round(t.values[0], 6) for t in drawn],
                "blue",
                texts=[f"trial {t.number}" for t in drawn],
            ),
            Line("best so far", x, y, "orange", steps=True),
        ),
    )


def _band(snapshot: Snapshot, leaders: Sequence[FrozenTrial], x: Sequence[float]) -> list[Mark]:
    """How sure the accuracies of the best are; nothing for a loss, whose spread is not kept."""
    images = [int(t.user_attrs.get("validation_images") or 0) for t in leaders]
    if not snapshot.is_share or not all(images):
        return []
    ends = [accuracy_interval(t.values[0], n) for t, n in zip(leaders, images, strict=True)]
    low, high = np.array([*ends, ends[-1]]).round(6).T.tolist()
    return [Band("95% interval", x, low, high, "orange", steps=True)]


def generations_picture(snapshot: Snapshot) -> Picture | None:
    """How values spread in each generation."""
    positions = trial_positions(snapshot.trials)
    found: dict[int, list[float]] = {}
    for trial in snapshot.complete:
        if is_feasible(trial):
            generation = positions[trial.number] // snapshot.recipe.search.population_size
            found.setdefault(generation, []).append(trial.values[0])
    if len(found) < 2:
        return None
    order = sorted(found)
    quartiles = np.array([np.quantile(found[g], [0.25, 0.5, 0.75]) for g in order]).round(6)
    best = [min(found[g]) if snapshot.sign > 0 else max(found[g]) for g in order]
    low, middle, high = quartiles.T.tolist()
    return Picture(
        name="generations",
        title="Generation by generation",
        caption=f"A generation has {snapshot.recipe.search.population_size} trials. The first "
        "holds presets and random architectures. A search that works moves the band; a converged "
        "one narrows it.",
        x=Axis("generation", whole=True),
        y=_value_axis(snapshot),
        marks=(
            Band("middle half", order, low, high, "blue"),
            Line("median", order, middle, "blue"),
            Line("best of the generation", order, best, "orange"),
        ),
    )


def loss_picture(snapshot: Snapshot) -> Picture | None:
    """Training loss of the supernet."""
    supernet = get_attribute(snapshot.study, "supernet") or {}
    losses = supernet.get("losses")
    if not losses:
        return None
    return Picture(
        name="supernet",
        title="Training of the supernet",
        caption="Mean loss of each epoch, a random architecture each step. Architectures are "
        "scored with its last weights.",
        x=Axis("epoch", whole=True),
        y=Axis("cross-entropy", zero=True),
        marks=(Line("training loss", list(range(1, len(losses) + 1)), losses, "blue"),),
    )


def _value_axis(snapshot: Snapshot) -> Axis:
    return Axis(snapshot.value_title, percent=snapshot.is_share)
