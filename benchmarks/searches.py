"""Ways to search one supernet: samplers, first proposals, and one objective or two.

The benchmark trains a recipe's wide supernet once per seed. Each way then evaluates as many of its
truncations. The best one within the budget, by the first objective, is trained on from inherited
weights, refit on all labelled images and tested once, as `glora search` does with held-out images.
The tables have means over the seeds, and paired differences to the first way with 95 % intervals
(Student's t):

- the best value of the recipe's first objective within the budget after n trials;
- the hypervolume: the mean over all budgets up to the recipe's of the best validation accuracy that
  fits, which is the aim of several objectives;
- of the selected truncation, its parameters, and its accuracies: inherited and trained on
  (validation), and after the refit (test).

"evolution" is the default of recipes. Its first proposals are the truncation with the largest
components, and presets. "largest components" is that truncation alone. "first proposals" gives them
to TPE or NSGA-II, too; both have Optuna's own settings.
"rejection" is a reimplementation of the search of the GLoRA paper, with a population of 50 and 10
parents. Candidates above the budget are drawn again, at most 1000 times; then they count as trials.

    python benchmarks/searches.py digits --seeds 5 --out benchmarks/results/searches-digits.json
    python benchmarks/searches.py benchmarks/npz.toml --set task.path=FOLDER/sign_digits32.npz \\
        --set backbone.checkpoint=FOLDER/backbone.safetensors --n-trials 300
    python benchmarks/searches.py digits --small

The figures are written after each seed. The same command continues after the last one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import torch
from _document import MACHINE, command_line, interval, write_document
from _rejection import rejection
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from glora_automl.architecture import Architecture
from glora_automl.pipeline import (
    Candidate,
    Context,
    Run,
    Trained,
    Workspace,
    context_objective,
    create_sampler,
    fetch_supernet,
    first_proposals,
    initial_presets,
    load_adapted,
    load_backbone,
    load_supernet,
    open_run,
    refit_work,
    supernet_choices,
    train_candidates,
)
from glora_automl.progress import LineProgress, Progress
from glora_automl.recipes import Recipe, override_recipe
from glora_automl.study import CONSTRAINT, Stage, StageName
from glora_automl.supernet import Scorer
from glora_automl.training import evaluate
from glora_automl.workers import Worker, run_trials

WAYS: dict[str, dict[str, Any]] = {
    "evolution": {},
    "evolution, random start": {"initial_presets": False},
    "evolution, random start, all sizes": {"initial_presets": False, "min_budget_fraction": 0.0},
    "tpe": {"sampler": "tpe", "population_size": 10},
    "tpe, first proposals": {"sampler": "tpe", "population_size": 10},
    "nsga2": {"sampler": "nsga2", "population_size": 50},
    "nsga2, first proposals": {"sampler": "nsga2", "population_size": 50},
    "random": {"sampler": "random"},
    "largest components": {"n_trials": 1},
    "rejection": {},
    "evolution, two objectives": {},
    "nsga2, two objectives": {"sampler": "nsga2", "population_size": 50},
}
COUNTS = (25, 50, 100, 300, 1000)
SMALL: dict[str, Any] = {
    "budget": "20%",
    "backbone": {
        "kwargs": {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2},
        "pretraining": {"epochs": 2},
        "head_init": "logistic",
    },
    "training": {"epochs": 4, "warmup_epochs": 1},
    "search": {"n_trials": 8, "population_size": 4, "n_parents": 2},
}


class Evaluated(NamedTuple):
    """A truncation that a search has evaluated.

    Attributes:
        params: Its parameters in Optuna.
        n_params: Its trainable parameters.
        accuracy: Validation accuracy; 0 above the budget.
        loss: Validation loss; infinite above the budget.
    """

    params: dict[str, str]
    n_params: int
    accuracy: float
    loss: float

    def value(self, metric: str) -> float:
        """Return the value of an objective; higher is better."""
        return -self.loss if metric == "loss" else self.accuracy


def search_supernet(run: Run, trained: Trained, way: str) -> dict[str, Any]:
    """Return the figures of one way to search a supernet."""
    metric = run.context.recipe.objective
    objectives = [metric, "n_params"] if way.endswith(", two objectives") else [metric]
    recipe = run.context.recipe.replace(search={**WAYS[way], "objectives": objectives})
    context = replace(run.context, recipe=recipe, progress=Progress())
    begin = time.perf_counter()
    if way == "rejection":
        found = reject(context, trained)
    else:
        found = evaluate_trials(context, trained, with_first=way.endswith(", first proposals"))
    seconds = time.perf_counter() - begin
    n_trials = run.context.recipe.search.n_trials
    counts = sorted({count for count in (*COUNTS, n_trials) if count <= n_trials})
    figures: dict[str, Any] = {
        "after": {
            str(count): {
                "best": best_value(found[:count], context.budget, metric),
                "hypervolume": hypervolume(found[:count], context.budget),
            }
            for count in counts
        },
        "infeasible": sum(e.n_params > context.budget for e in found),
        "seconds": round(seconds, 1),
    }
    feasible = [e for e in found if e.n_params <= context.budget]
    if feasible:
        best = max(feasible, key=lambda e: e.value(metric))
        figures["selected"] = train_on(run, way, context.space.architecture(best.params))
    return figures


def evaluate_trials(context: Context, trained: Trained, *, with_first: bool) -> list[Evaluated]:
    """Search with Optuna.

    Args:
        context: The recipe of the way.
        trained: The supernet.
        with_first: Whether the first proposals of the evolution are evaluated first.
    """
    search = context.recipe.search
    objective = context_objective(context, trained)
    first = first_proposals(context, trained, initial_presets(context))
    allowed = supernet_choices(context, trained)
    storage = InMemoryStorage()
    study = optuna.create_study(
        storage=storage,
        directions=objective.directions,
        sampler=create_sampler(context, first, allowed),
    )
    if with_first:
        default = type(search)()
        changes = {"sampler": "evolution", "population_size": default.population_size}
        other = replace(context, recipe=context.recipe.replace(search=changes))
        proposals = first_proposals(other, trained, initial_presets(other))
        for params in proposals[: search.n_trials]:
            study.enqueue_trial(dict(params))
    with Worker(storage) as worker:
        run_trials(
            study,
            objective.propose,
            worker=worker,
            target=lambda: search.n_trials,
            progress=Progress(),
        )
    return [evaluated_trial(trial) for trial in study.get_trials(deepcopy=False)]


def evaluated_trial(trial: FrozenTrial) -> Evaluated:
    """Return what a trial evaluated."""
    attributes = trial.user_attrs
    return Evaluated(
        trial.params,
        attributes[CONSTRAINT],
        attributes["validation_accuracy"],
        attributes["validation_loss"],
    )


def reject(context: Context, trained: Trained) -> list[Evaluated]:
    """Search like the paper."""
    search, space = context.recipe.search, context.space
    scorer = Scorer(trained.supernet, *context.validation, dtype=context.scoring_dtype)
    found: list[Evaluated] = []

    def value(params: dict[str, str], n_params: int) -> float:
        if n_params > context.budget:
            found.append(Evaluated(params, n_params, 0.0, np.inf))
        else:
            score = scorer.score(space.architecture(params))
            found.append(Evaluated(params, n_params, score.accuracy, score.loss))
        return found[-1].value(context.recipe.objective)

    rejection(
        space,
        context.budget,
        value,
        evaluations=search.n_trials,
        rng=np.random.default_rng([context.recipe.seed, 2306]),
        allowed=supernet_choices(context, trained),
    )
    return found


def train_on(run: Run, way: str, architecture: Architecture) -> dict[str, Any]:
    """Train a truncation on, refit it and test it, with the functions of `glora search`."""
    stage = str(StageName(Stage.COMPARE, way.replace(",", "")))
    outcome = train_candidates(run, stage, way, [Candidate(architecture)])
    selection = outcome.selection
    assert selection is not None
    assert selection.inherited is not None
    assert selection.trained is not None
    if run.context.recipe.selection.refit:
        (outcome,) = run.stages.run(refit_work(run, f"{stage}-refit", way, outcome)).values()
    model = load_adapted(run, outcome)
    assert model is not None
    return {
        "n_params": selection.n_params,
        "inherited": selection.inherited.accuracy,
        "trained": selection.trained.accuracy,
        "test": evaluate(model, *run.context.test()).accuracy,
    }


def best_value(found: Sequence[Evaluated], budget: int, metric: str) -> float | None:
    """Return the best value of the objective within the budget; None without any."""
    values = [e.value(metric) for e in found if e.n_params <= budget]
    return (-max(values) if metric == "loss" else max(values)) if values else None


def hypervolume(found: Sequence[Evaluated], budget: int) -> float:
    """Return the mean over all budgets up to ``budget`` of the best accuracy that fits."""
    feasible = sorted((e.n_params, e.accuracy) for e in found if e.n_params <= budget)
    if not feasible or not budget:
        return 0.0
    sizes, accuracies = zip(*feasible, strict=True)
    steps = np.diff([*sizes, budget])
    return float(steps @ np.maximum.accumulate(accuracies)) / budget


def show(runs: dict[str, list[dict[str, Any]]], recipe: Recipe) -> None:
    """Print the tables."""
    base = next(iter(runs.values()))
    counts = sorted(map(int, base[0]["after"]))
    metric = recipe.objective
    title = f"{recipe.name}, {len(base)} seeds; in brackets: minus the first way, 95 % intervals"
    table = Table(title=title)
    table.add_column("way", no_wrap=True)
    for key in (f"best {metric}", "hypervolume"):
        for n in counts:
            table.add_column(f"{key} %, {n}" if key != "best loss" else f"{key}, {n}")
    for way, figures in runs.items():
        cells = []
        for key in ("best", "hypervolume"):
            percent = key == "hypervolume" or metric == "accuracy"
            for n in map(str, counts):
                values = [f["after"][n][key] for f in figures]
                cells.append(_cell(values, [f["after"][n][key] for f in base], percent))
        table.add_row(way, *cells)
    console = Console(width=200)
    console.print(table)
    table = Table("way", "parameters", "inherited %", "trained on %", "test %", title="Selected")
    for way, figures in runs.items():
        found = [f.get("selected") for f in figures]
        if any(entry is None for entry in found):
            table.add_row(way, *["–"] * 4)
            continue
        cells = [f"{np.mean([entry['n_params'] for entry in found]):,.0f}"]
        for key in ("inherited", "trained", "test"):
            own = [f["selected"][key] if "selected" in f else None for f in base]
            cells.append(_cell([entry[key] for entry in found], own, percent=True))
        table.add_row(way, *cells)
    console.print(table)


def _cell(values: list[float | None], base: list[float | None], percent: bool) -> str:
    """Return a mean and the paired difference to the first way."""
    if any(value is None for value in (*values, *base)):
        return "–"
    scale, digits = (100, 1) if percent else (1, 3)
    mean = f"{scale * np.mean(values):.{digits}f}"
    if values == base:
        return mean
    difference = scale * (np.array(values, dtype=float) - np.array(base, dtype=float))
    half = f" ± {interval(difference):.{digits}f}" if len(values) > 1 else ""
    return f"{mean} ({difference.mean():+.{digits}f}{half})"


def kept_runs(path: Path | None, recipe: Recipe, ways: list[str]) -> dict[str, list[Any]]:
    """Return the figures of the seeds in the file, if they are of the same searches."""
    runs: dict[str, list[Any]] = {way: [] for way in ways}
    if path is None or not path.is_file():
        return runs
    document = json.loads(path.read_text(encoding="utf-8"))
    same = document.get("recipe") == json.loads(json.dumps(recipe.identity()))
    return document["runs"] if same and [*document["runs"]] == ways else runs


def save(path: Path, recipe: Recipe, runs: dict[str, list[Any]]) -> None:
    """Write the figures as JSON."""
    document = {
        "benchmark": "searches",
        "command": command_line(),
        "machine": MACHINE,
        "torch": torch.__version__,
        "recipe": recipe.identity(),
        "runs": runs,
    }
    write_document(path, document)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="name of a recipe, or path of a .toml file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--n-trials", type=int, help="trials per search; the recipe's by default")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], metavar="WAY")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("--small", action="store_true", help="seconds: two seeds, tiny searches")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recipe = override_recipe(arguments.recipe, settings=arguments.settings)
    recipe = recipe.replace(selection={"holdout": True})  # the ways are compared by validation
    if arguments.n_trials is not None:
        recipe = recipe.replace(search={"n_trials": arguments.n_trials})
    if arguments.small:
        arguments.seeds, recipe = 2, recipe.replace(**SMALL)
    progress = LineProgress(lambda line: print(line, file=sys.stderr, flush=True), interval=60)
    runs = kept_runs(arguments.out, recipe, arguments.ways)
    for seed in range(len(runs[arguments.ways[0]]), arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            workspace = Workspace(runs=folder, device=arguments.device, progress=progress)
            with open_run(recipe.replace(seed=seed), workspace) as opened:
                run = load_backbone(opened)
                load_supernet(run)
                for way in arguments.ways:
                    figures = search_supernet(run, fetch_supernet(run), way)
                    runs[way].append(figures)
                    print(f"seed {seed}, {way}: {figures}", file=sys.stderr, flush=True)
        if arguments.out is not None:  # after each seed: all of them may take hours
            save(arguments.out, recipe, runs)
    show(runs, recipe)


if __name__ == "__main__":
    main()
