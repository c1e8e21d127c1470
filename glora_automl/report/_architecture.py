"""Pictures of the best architectures: trainable parameters by place, and common choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from glora_automl.architecture import TENSORS, Architecture
from glora_automl.budget import FeasibleRegion
from glora_automl.report._picture import Axis, Bars, Grid, Picture
from glora_automl.report._snapshot import Snapshot

__all__ = ["architecture_picture", "survival_picture"]

N_RANDOM = 200
"""Random architectures that the best ones are compared with."""


def architecture_picture(snapshot: Snapshot) -> Picture | None:
    """Show the best architecture: choice and trainable parameters per support tensor and layer."""
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
        title=f"{total:,} of {snapshot.budget:,} trainable parameters, {label}",
        caption="Each cell shows the choice of one support tensor in one layer. Darker cells have "
        "more trainable parameters; empty cells have none.",
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
    """Show how often each choice occurs in the best and in random architectures."""
    space = snapshot.space
    top = snapshot.ranked[: snapshot.recipe.search.n_parents]
    if not top or not space.dimensions:
        return None
    region = FeasibleRegion(space, snapshot.budget)
    rng = np.random.default_rng(0)
    best = _frequencies(space.architecture(trial.params) for trial in top)
    random = _frequencies(space.architecture(region.draw(rng)) for _ in range(N_RANDOM))
    names = dict.fromkeys(
        (dimension.tensor, choice) for dimension in space.dimensions for choice in dimension.choices
    )
    order = sorted(names, key=lambda name: name[0])  # stable: choices keep their order
    labels = [f"{tensor} = {choice}" for tensor, choice in order]
    return Picture(
        name="survival",
        title=f"Choices of the best {len(top)} and of random architectures",
        caption="Percentage of layers whose support tensor has the choice, in the best "
        f"architectures and in {N_RANDOM} random ones under the same budget. A choice far above "
        "random comes from a preset or from the search.",
        x=Axis("layers in %", percent=True, zero=True),
        y=Axis("choice"),
        marks=(
            Bars(f"best {len(top)}", labels, [best[name] for name in order], "blue"),
            Bars("random", labels, [random[name] for name in order], "grey"),
        ),
    )


def _frequencies(architectures: Iterable[Architecture]) -> Counter[tuple[str, str]]:
    """Return the fraction of layers with each choice, by tensor and choice."""
    counts: Counter[tuple[str, str]] = Counter()
    n_layers = 0
    for architecture in architectures:
        for choices in architecture.values():
            n_layers += 1
            counts.update((t, str(c)) for t, c in zip(TENSORS, choices, strict=True))
    return Counter({name: count / n_layers for name, count in counts.items()})
