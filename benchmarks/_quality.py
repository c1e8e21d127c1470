"""Pairs of a task and a seed for quality.py: measurement and aggregation."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from _document import interval

from glora_automl.commands import SearchResult, compare, search
from glora_automl.commands._compare import LONGER, ONE_RANDOM, RANDOM, SCRATCH, UNIFORM
from glora_automl.pipeline import Workspace
from glora_automl.progress import LineProgress
from glora_automl.recipes import Recipe
from glora_automl.study import SEARCHED, Comparison, Row, Spent, Stage, stage_costs

SELECTED = "selected by validation"
BEST_PRESET = "best preset by validation"
PROBE = "linear probe"
LORA = "LoRA, highest rank"
OTHERS = (SEARCHED, RANDOM, ONE_RANDOM, UNIFORM, SCRATCH, LONGER)
"""Rows of a comparison that are no presets."""

LEVEL = 0.005
"""Largest difference of test accuracies that counts as level."""

COLLAPSE = 0.02
"""A method has collapsed if its test accuracy is lower than the linear probe's by more."""

SATURATED = 0.01
"""A task is saturated if all methods are at most so far from the linear probe."""

_RANKED = re.compile("LoRA r=([0-9]+)( in attention)?")
_ROUNDING = 1e-9

Pair = dict[str, Any]
"""Figures of one task, budget and seed, as JSON values."""


@dataclass(frozen=True)
class Job:
    """One task, budget and seed to measure.

    Attributes:
        task: Name of the task.
        recipe: Its recipe, with the seed and the name of the study.
        budget: Name of the budget.
        runs: The runs folder.
        device: The device.
        quick: Whether the study's own baselines are the only comparison.
        n_architectures: Architectures for the rank correlation.
    """

    task: str
    recipe: Recipe
    budget: str
    runs: Path
    device: str = "auto"
    quick: bool = False
    n_architectures: int = 0


class Measured(NamedTuple):
    """Figures of one method on one pair.

    Attributes:
        n_params: Trainable parameters.
        validation: Validation accuracy; None where only the final weights were trained.
        test: Test accuracy.
        cost: Cost in LoRA trainings, counted in images.
    """

    n_params: int
    validation: float | None
    test: float
    cost: float


def measure_pair(job: Job) -> Pair:
    """Run, or continue, the study of a pair and its comparison."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recipe = job.recipe

    def write(line: str) -> None:
        print(f"{recipe.name}: {line}", file=sys.stderr, flush=True)

    progress = LineProgress(write, interval=60)
    workspace = Workspace(runs=job.runs, device=job.device, progress=progress)
    found = search(recipe, workspace=workspace)
    only = (LONGER, PROBE) if job.quick else None
    number = 0 if job.quick else job.n_architectures
    comparison = compare(recipe.name, n_architectures=number, only=only, workspace=workspace)
    costs, training = _costs(found, recipe, comparison)
    return {
        "study": recipe.name,
        "task": job.task,
        "budget": job.budget,
        "seed": recipe.seed,
        "training": training,
        "costs": costs,
        "selected": found.selection.preset or SEARCHED,
        "comparison": comparison.to_json(),
    }


def _costs(
    found: SearchResult, recipe: Recipe, comparison: Comparison
) -> tuple[dict[str, int], int]:
    """Return the cost of each method and of one training, in images of a forward pass.

    The best preset costs a training of each preset on the training images, and the refit of one.
    The selected adapter costs the search and the same for the baselines. There is neither if no
    images were held out.
    """
    by_stage: dict[Stage, int] = {}
    for cost in stage_costs(found.study):
        by_stage[cost.stage] = by_stage.get(cost.stage, 0) + cost.forward_images
    costs = {
        row.name: Spent(row.n_images, row.n_evaluated).forward_images for row in comparison.rows
    }
    if SCRATCH in costs:  # the search has found it
        costs[SCRATCH] += by_stage[Stage.SUPERNET] + by_stage[Stage.SEARCH]
    training = 3 * recipe.training.epochs * found.data.n_images["train"]
    if comparison.best_preset is None:
        return costs, max(1, training)
    fitting = [row.name for row in comparison.rows if row.n_params is not None]
    presets = [name for name in fitting if name not in OTHERS]
    baselines = [row.name for row in found.rows if row.name in presets]
    costs[BEST_PRESET] = training * (len(presets) - 1) + costs[comparison.best_preset]
    costs[SELECTED] = costs[SEARCHED] + training * len(baselines)
    if found.selection.preset is not None:
        costs[SELECTED] += costs[found.selection.preset] - training  # its refit
    return costs, max(1, training)


def methods(pair: Pair) -> dict[str, Measured]:
    """Return the methods of a pair by names that all tasks share.

    The highest rank of LoRA that fits has one name on all tasks, whatever the rank.
    """
    comparison = Comparison.from_json(pair["comparison"])
    rows = {row.name: row for row in comparison.rows if row.n_params is not None}
    ranks = {name: int(m[1]) for name in rows if (m := _RANKED.fullmatch(name))}
    names = {max(ranks, key=lambda name: ranks[name]): LORA} if ranks else {}
    names |= {name: "GLoRA" for name in rows if name.startswith("GLoRA r=")}

    def measured(row: Row, cost: int) -> Measured:
        assert row.n_params is not None
        assert row.test is not None, "a task of this benchmark has test images"
        validation = None if row.validation is None else row.validation.accuracy
        return Measured(row.n_params, validation, row.test.accuracy, cost / pair["training"])

    costs, validated = pair["costs"], {}
    if comparison.best_preset is not None:
        validated = {
            SELECTED: measured(rows[pair["selected"]], costs[SELECTED]),
            BEST_PRESET: measured(rows[comparison.best_preset], costs[BEST_PRESET]),
        }
    return {
        SEARCHED: measured(rows[SEARCHED], costs[SEARCHED]),
        **validated,
        **{
            names.get(name, name): measured(row, costs[name])
            for name, row in rows.items()
            if name != SEARCHED
        },
    }


def summarize(pairs: Sequence[Pair], tuned_on: Sequence[str] = ()) -> dict[str, Any]:
    """Return means and paired differences by budget.

    Args:
        pairs: The pairs.
        tuned_on: Tasks that settings were chosen on.
    """
    budgets = dict.fromkeys(pair["budget"] for pair in pairs)
    return {
        budget: _summarize_budget([p for p in pairs if p["budget"] == budget], tuned_on)
        for budget in budgets
    }


def _summarize_budget(pairs: Sequence[Pair], tuned_on: Sequence[str]) -> dict[str, Any]:
    by_task: dict[str, list[dict[str, Measured]]] = {}
    for pair in pairs:
        by_task.setdefault(pair["task"], []).append(methods(pair))
    means = {task: _means(found) for task, found in by_task.items()}
    saturated = [task for task in by_task if _is_saturated(means[task])]
    views = {
        "all tasks": list(by_task),
        "saturated tasks": saturated,
        "tasks that are not saturated": [task for task in by_task if task not in saturated],
        "tasks that no setting was chosen on": [task for task in by_task if task not in tuned_on],
    }
    rhos = [
        pair["comparison"]["inherited"]["rho"]
        for pair in pairs
        if pair["comparison"]["inherited"] is not None
    ]
    rhos = [rho for rho in rhos if rho is not None]
    return {
        "views": {
            name: _view({task: by_task[task] for task in tasks})
            for name, tasks in views.items()
            if tasks and (name in ("all tasks", "saturated tasks") or len(tasks) < len(by_task))
        },
        "tasks": means,
        "saturated": saturated,
        "rho": None if not rhos else {"mean": float(np.mean(rhos)), **_half_width(rhos)},
        "n_pairs": len(pairs),
        "n_presets_selected": sum(pair["selected"] != SEARCHED for pair in pairs),
    }


def _means(found: Sequence[Mapping[str, Measured]]) -> dict[str, float]:
    """Return the mean test accuracy of each method over the seeds of a task."""
    names = dict.fromkeys(name for pair in found for name in pair)
    return {n: float(np.mean([pair[n].test for pair in found if n in pair])) for n in names}


def _is_saturated(means: Mapping[str, float]) -> bool:
    return all(abs(mean - means[PROBE]) <= SATURATED + _ROUNDING for mean in means.values())


def _view(by_task: Mapping[str, Sequence[Mapping[str, Measured]]]) -> dict[str, Any]:
    """Return the figures of all methods on some tasks."""
    found = [pair for pairs in by_task.values() for pair in pairs]
    names = dict.fromkeys(name for pair in found for name in pair)
    return {
        "tasks": list(by_task),
        "n_pairs": len(found),
        "methods": {name: _figures(name, by_task) for name in names},
    }


def _figures(name: str, by_task: Mapping[str, Sequence[Mapping[str, Measured]]]) -> dict[str, Any]:
    """Return the means of a method over tasks, and the differences "search minus method".

    Seeds are averaged within each task. Pairs that the method does not fit are left out.
    """
    fitting = {
        task: [pair for pair in pairs if name in pair]
        for task, pairs in by_task.items()
        if any(name in pair for pair in pairs)
    }
    pairs = [pair for found in fitting.values() for pair in found]
    differences = {
        task: [pair[SEARCHED].test - pair[name].test for pair in found]
        for task, found in fitting.items()
    }

    def mean(field: str) -> float | None:
        values = [[getattr(pair[name], field) for pair in found] for found in fitting.values()]
        known = [[v for v in seeds if v is not None] for seeds in values]
        return float(np.mean([np.mean(seeds) for seeds in known])) if all(known) else None

    return {
        "n_tasks": len(fitting),
        "n_pairs": len(pairs),
        **{field: mean(field) for field in Measured._fields},
        "over_tasks": _difference([float(np.mean(seeds)) for seeds in differences.values()]),
        "over_pairs": _difference([d for seeds in differences.values() for d in seeds]),
        "n_collapses": sum(
            pair[name].test < pair[PROBE].test - COLLAPSE - _ROUNDING for pair in pairs
        ),
    }


def _difference(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean of paired differences, its 95 % interval and its signs."""
    ahead = sum(value > LEVEL + _ROUNDING for value in values)
    behind = sum(value < -LEVEL - _ROUNDING for value in values)
    return {
        "difference": float(np.mean(values)),
        **_half_width(values),
        "ahead": ahead,
        "level": len(values) - ahead - behind,
        "behind": behind,
    }


def _half_width(values: Iterable[float]) -> dict[str, float | None]:
    half = interval(list(values))
    return {"interval": None if math.isnan(half) else half}
