"""Stages ``ladder``: the smallest adapter that is not worse than the selected one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from glora_automl.pipeline._context import Context
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._selection import Candidate, find_candidates, train_candidates
from glora_automl.storages import ArtifactReference
from glora_automl.study import (
    SEARCHED,
    AdapterOutcome,
    Ladder,
    Row,
    Stage,
    StageName,
    Step,
    margin_note,
)
from glora_automl.workers import Claim, Work

__all__ = ["MAX_STEPS", "Smallest", "find_smallest", "ladder_budgets"]

HALVINGS = 4
"""Halvings of the selected adapter's parameters."""

MAX_STEPS = HALVINGS + 1
"""Steps of a ladder, with the smallest architecture of the search space."""


class Smallest(NamedTuple):
    """The end of a ladder.

    Attributes:
        ladder: What was compared.
        outcome: The smallest adapter that is not worse, or else the selected one.
        stages: Stages of the ladder, for their cost.
    """

    ladder: Ladder
    outcome: AdapterOutcome
    stages: tuple[str, ...] = ()


def find_smallest(run: Run, selected: AdapterOutcome, margin: float) -> Smallest:
    """Return the smallest adapter that is shown not to be worse than the selected one.

    Sizes are halves, quarters, eighths and sixteenths of the selected adapter, then the smallest
    architecture of the space, usually a linear probe. Each is the largest truncation of the
    supernet, which is found without validation images, and is trained on like the selected one. It
    is not worse if :attr:`Step.bound` is at most the margin.

    The walk ends at the first size that fails. Each test decides whether there is a next one, so
    all are done at 95% without a correction for their number (a fixed sequence: Maurer, Hothorn and
    Lehmacher, Multiple comparisons in drug clinical trials and preclinical assays, 1995).

    The bound covers the sampling of the validation images, for the weights before the refit. It
    does not cover another training of the same adapters, nor other kinds of images. The same images
    selected the larger adapter, which is therefore biased upwards: an error on the safe side.
    Cross-fitted predictions would take one supernet per fold, as it has learned from all training
    images. A supernet of ``paths = "uniform"`` has no largest truncation; there the best trial of
    a size is taken, which the same images selected, too.

    Several workers share the steps. The outcomes do not depend on the margin.

    Args:
        run: The study, with a selection.
        selected: The selected adapter, with its predictions.
        margin: Points of accuracy that the smaller adapter may lose.
    """
    row, context = selected.row, run.context
    assert row.n_params is not None
    assert row.validation is not None
    assert selected.predictions is not None
    size = _bytes(context, row.n_params)
    ladder = Ladder(margin, row.name, row.n_params, size, row.validation)
    if margin_note(margin, row.validation.n_images) is not None:
        return Smallest(ladder, selected)
    budgets = ladder_budgets(row.n_params, context.space.minimum)
    works = {
        _stage(budget): Work(
            AdapterOutcome, partial(_train, run, selected.predictions, budgets, place)
        )
        for place, budget in enumerate(budgets)
    }

    def is_last(outcome: AdapterOutcome) -> bool:
        return outcome.step is not None and not outcome.step.is_within(margin)

    outcomes: dict[str, AdapterOutcome] = run.stages.run(works, is_last=is_last)
    ladder = replace(ladder, steps=tuple(o.step for o in outcomes.values() if o.step is not None))
    chosen = ladder.chosen
    found = selected if chosen is None else outcomes[_stage(chosen.budget)]
    return Smallest(ladder, found, tuple(outcomes))


def ladder_budgets(n_params: int, minimum: int) -> list[int]:
    """Return the most trainable parameters of each step, largest first.

    Args:
        n_params: Parameters of the selected adapter.
        minimum: Parameters of the smallest architecture of the search space.

    Example:
        >>> ladder_budgets(4000, 0), ladder_budgets(5, 1), ladder_budgets(0, 0)
        ([2000, 1000, 500, 250, 0], [2, 1], [])
    """
    halves = [n_params >> power for power in range(1, HALVINGS + 1)]
    sizes = {size for size in (*halves, minimum) if minimum <= size < n_params}
    return sorted(sizes, reverse=True)


def _stage(budget: int) -> str:
    return str(StageName(Stage.LADDER, str(budget)))


def _bytes(context: Context, n_params: int) -> int:
    """Return the size of an adapter, whose parameters have the backbone's data type."""
    assert context.loaded is not None
    return n_params * next(context.loaded.parameters()).element_size()


def _train(
    run: Run,
    predictions: ArtifactReference,
    budgets: Sequence[int],
    place: int,
    claim: Claim,
) -> AdapterOutcome:
    """Train an adapter of one size on, and compare it with the selected one by image.

    Args:
        run: The study.
        predictions: Those of the selected adapter.
        budgets: The sizes.
        place: Place of this one among them.
        claim: The stage's attempt.
    """
    budget, stage = budgets[place], _stage(budgets[place])
    candidate = _candidate(run, budget)
    if candidate is None or (place and candidate == _candidate(run, budgets[place - 1])):
        return AdapterOutcome(Row(SEARCHED))  # the step before it, if any, is this small already
    title = f"Train the best subnet of at most {budget:,} parameters"
    outcome = train_candidates(run, stage, SEARCHED, [candidate], title)
    assert outcome.row.n_params is not None
    assert outcome.row.validation is not None
    assert outcome.predictions is not None
    labels = run.context.validation[1].cpu()
    before, after = (
        run.download(artifact)["classes"] == labels
        for artifact in (predictions, outcome.predictions)
    )
    step = Step(
        budget,
        outcome.row.n_params,
        _bytes(run.context, outcome.row.n_params),
        outcome.row.validation,
        n_lost=int((before & ~after).sum()),
        n_gained=int((after & ~before).sum()),
    )
    return replace(outcome, step=step)


def _candidate(run: Run, budget: int) -> Candidate | None:
    return next(iter(find_candidates(run, budget)), None)
