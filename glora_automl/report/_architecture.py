"""Pictures of where the parameters went, and of what survives in the best architectures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from glora_automl.architecture import TENSORS, Architecture
from glora_automl.budget import FeasibleRegion
from glora_automl.report._picture import Axis, Bars, Grid, Picture
from glora_automl.report._snapshot import Snapshot

__all__ = ["architecture_picture", "survival_picture"]

DRAWS = 200
"""Architectures that are drawn to know what chance gives."""


def architecture_picture(snapshot: Snapshot) -> Picture | None:
    """Trainable parameters of each support tensor of each layer, in the best architecture."""
    if snapshot.architecture is None:
        return None
    label, architecture = snapshot.architecture
    shapes = snapshot.space.shapes
    cells = {
        layer: [
            (choice.count(tensor, shapes[layer]), "" if choice.kind == "none" else str(choice))
            for tensor, choice in zip(TENSORS, choices, strict=True)
        ]
        for layer, choices in architecture.items()
    }
    total = architecture.count(shapes)
    return Picture(
        name="architecture",
        title=f"{total:,} of {snapshot.budget:,} parameters, {label}",
        caption="Each cell is a support tensor of a layer, with its choice; the darker, the more "
        "trainable parameters. Empty cells have none.",
        x=Axis("support tensor"),
        y=Axis("layer"),
        marks=(
            Grid(
                rows=list(cells),
                columns=TENSORS,
                values=[[count for count, _ in row] for row in cells.values()],
                texts=[[text for _, text in row] for row in cells.values()],
                unit="trainable parameters",
            ),
        ),
    )


def survival_picture(snapshot: Snapshot) -> Picture | None:
    """How often each choice is in the best architectures, beside how often chance takes it."""
    space = snapshot.space
    top = snapshot.ranked[: snapshot.recipe.search.n_parents]
    if not top or not space.dimensions:
        return None
    region = FeasibleRegion(space, snapshot.budget)
    rng = np.random.default_rng(0)
    best = _shares(space.architecture(trial.params) for trial in top)
    chance = _shares(space.architecture(region.draw(rng)) for _ in range(DRAWS))
    names = dict.fromkeys(
        (dimension.tensor, choice) for dimension in space.dimensions for choice in dimension.choices
    )
    order = sorted(names, key=lambda name: name[0])  # stable: choices keep their order
    labels = [f"{tensor} = {choice}" for tensor, choice in order]
    return Picture(
        name="survival",
        title=f"What survives in the best {len(top)} architectures",
        caption="Share of the layers whose support tensor has the choice, in the best "
        f"architectures and in {DRAWS} that are drawn under the same budget, as the first "
        "generation is. What is far above chance was kept by the search.",
        x=Axis("share of layers in %", percent=True, zero=True),
        y=Axis("choice"),
        marks=(
            Bars(f"best {len(top)}", labels, [best[name] for name in order], "blue"),
            Bars("chance", labels, [chance[name] for name in order], "grey"),
        ),
    )


def _shares(architectures: Iterable[Architecture]) -> Counter[tuple[str, str]]:
    """For each tensor and choice the share of layers, over all architectures, that have it."""
    counts: Counter[tuple[str, str]] = Counter()
    layers = 0
    for architecture in architectures:
        for choices in architecture.values():
            layers += 1
            counts.update((t, str(c)) for t, c in zip(TENSORS, choices, strict=True))
    return Counter({name: count / layers for name, count in counts.items()})
