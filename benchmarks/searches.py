"""Ways to search one supernet: samplers, one objective or two, and how to choose.

For each seed a recipe's supernet is trained once, and searched in each way with as many trials, all
with the weights of that supernet. Told are, as means over the seeds with a 95% confidence interval
(Student's t) of the paired difference to the recipe's own way:

- the best validation accuracy under the budget after 100, 300 and 1000 trials,
- the hypervolume: the mean over all budgets up to the recipe's of the best validation accuracy that
  fits, which is what several objectives are for,
- of the architecture that is chosen at the end: its parameters, its test accuracy, and the gap
  between validation and test accuracy; chosen by the best accuracy, and with ``--folds`` for the
  first way by cross-validation.
  Test images are looked at once a way and rule, for what was chosen.

"evolution" is what a recipe gets that does not say otherwise. TPE and NSGA-II have Optuna's own
settings; "hand-picked" puts what the evolution begins with in front of their trials, too.
"rejection" is the search of the GLoRA paper, written anew, with its population of 50 and its 10
parents: candidates above the budget are drawn again, at most 1000 times. Those above it all the
same count as trials and are worth nothing.

    python benchmarks/searches.py digits --seeds 5 --out benchmarks/results/searches-digits.json
    python benchmarks/searches.py benchmarks/npz.toml --set task.path=FOLDER/sign_digits32.npz \\
        --set backbone.checkpoint=FOLDER/backbone.safetensors --n-trials 300
    python benchmarks/searches.py digits --small

The figures are written after each seed; the same command goes on after the last one.
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
from typing import Any

import numpy as np
import optuna
import torch
from _document import MACHINE, command_line, interval, write_document
from _rejection import rejection
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, create_trial
from rich.console import Console
from rich.table import Table

from glora_automl.pipeline._context import prepare
from glora_automl.pipeline._initial import initial_presets
from glora_automl.pipeline._objective import Proposer, create_sampler
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._selection import rank, score_again
from glora_automl.pipeline._supernet import load_backbone, load_supernet
from glora_automl.progress import LineProgress, Progress
from glora_automl.recipes import Recipe, override_recipe
from glora_automl.recipes._recipe import SearchSettings
from glora_automl.storages import open_artifacts
from glora_automl.study._ranking import best_trials, front_of
from glora_automl.supernet import Supernet
from glora_automl.training import evaluate
from glora_automl.workers._stages import Stages
from glora_automl.workers._trials import run_trials
from glora_automl.workers._worker import Worker

BOTH = ["accuracy", "n_params"]
WAYS: dict[str, dict[str, Any]] = {
    "evolution": {},
    "evolution, nothing hand-picked": {"initial_presets": False},
    "evolution, all sizes": {"initial_presets": False, "min_budget_fraction": 0.0},
    "evolution, population 50": {"population_size": 50, "n_parents": 10},
    "tpe": {"sampler": "tpe", "population_size": 10},
    "tpe, hand-picked": {"sampler": "tpe", "population_size": 10},
    "nsga2": {"sampler": "nsga2", "population_size": 50},
    "nsga2, hand-picked": {"sampler": "nsga2", "population_size": 50},
    "random": {"sampler": "random"},
    "rejection": {},
    "evolution, two objectives": {"objectives": BOTH},
    "tpe, two objectives": {"sampler": "tpe", "population_size": 10, "objectives": BOTH},
    "nsga2, two objectives": {"sampler": "nsga2", "population_size": 50, "objectives": BOTH},
}
SIZE = {"population_size": SearchSettings().population_size}
COUNTS = (100, 300, 1000)
SMALL = {
    "task": {"validation_per_class": 20},
    "backbone": {
        "kwargs": {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2},
        "pretraining": {"epochs": 2},
    },
    "training": {"epochs": 4, "warmup_epochs": 1},
    "search": {"n_trials": 8, "population_size": 4, "n_parents": 2},
    "selection": {"n_candidates": 2, "finetune_epochs": 1, "rounds": []},
}


def trained(recipe: Recipe, folder: Path) -> tuple[Run, Supernet]:
    """A recipe's supernet."""
    storage = InMemoryStorage()
    progress = LineProgress(lambda line: print(line, file=sys.stderr, flush=True), interval=60)
    setup = prepare(recipe, runs=folder, name="s", device="auto", progress=progress)
    worker = Worker(storage)
    stages = Stages("s", storage, worker, setup.folder, progress, "")
    study = optuna.create_study(storage=storage)
    artifacts = open_artifacts(str(folder / "artifacts"), cache=folder / "downloads")
    run = load_backbone(Run(study, setup, stages, artifacts, worker))
    return run, load_supernet(run)


def searched(run: Run, supernet: Supernet, way: str, folds: int = 0) -> dict[str, Any]:
    """Figures of one way to search a supernet."""
    search = {"objectives": ["accuracy"], **WAYS[way]}
    recipe = run.setup.recipe.replace(search=search, selection={"n_splits": folds})
    storage = InMemoryStorage()
    setup = replace(run.setup, recipe=recipe, progress=Progress())
    study = optuna.create_study(
        storage=storage,
        directions=["maximize", "minimize"][: len(recipe.search.objectives)],
        sampler=create_sampler(setup, initial_presets(setup)),
    )
    if way.endswith(", hand-picked"):
        picked = replace(setup, recipe=recipe.replace(search={"sampler": "evolution", **SIZE}))
        for params in initial_presets(picked)[: recipe.search.n_trials]:
            study.enqueue_trial(params)
    worker = Worker(storage)
    run = replace(run, study=study, setup=setup, worker=worker)
    begin = time.perf_counter()
    if way == "rejection":
        reject(run, supernet)
    else:
        run_trials(
            study,
            Proposer(run, supernet),
            worker=worker,
            target=lambda: recipe.search.n_trials,
            progress=setup.progress,
        )
    seconds = time.perf_counter() - begin
    trials = study.get_trials(deepcopy=False)
    figures: dict[str, Any] = {
        "after": {
            str(count): {
                "best": reached(trials[:count]),
                "hypervolume": hypervolume(trials[:count], setup.budget),
            }
            for count in {*COUNTS, recipe.search.n_trials}
            if count <= recipe.search.n_trials
        },
        "images": sum(t.user_attrs.get("validation_images", 0) for t in trials),
        "infeasible": sum(t.constraints["trainable_params"] > 0 for t in trials),
        "seconds": round(seconds, 1),
    }
    best = best_trials(study, recipe.selection.n_candidates)
    for rule, parts in {"highest": 0, "cross-validated": folds}.items():
        if not best or (rule == "cross-validated" and not folds):
            continue
        settings = recipe.replace(selection={"n_splits": parts})
        again = replace(run, setup=replace(setup, recipe=settings))
        chosen = rank(score_again(again, supernet, best)[0])[0]
        with supernet.merged(chosen.architecture) as model:
            test = evaluate(model, *setup.test())
        figures[rule] = {
            "parameters": chosen.n_params,
            "validation": chosen.score.accuracy,
            "test": test.accuracy,
            "gap": chosen.score.accuracy - test.accuracy,
        }
    return figures


def reject(run: Run, supernet: Supernet) -> None:
    """Put the trials of the paper's search into a study."""
    setup = run.setup
    space, recipe = setup.space, setup.recipe

    def evaluated(params: dict[str, str], count: int) -> float:
        if count > setup.budget:
            score, images = 0.0, 0
        else:
            with supernet.merged(space.architecture(params)) as model:
                score, _, images = evaluate(model, *setup.validation)
        run.study.add_trial(
            create_trial(
                value=score,
                params=params,
                distributions=space.distributions(),
                user_attrs={"trainable_params": count, "validation_images": images},
                constraints={"trainable_params": count - setup.budget},
            )
        )
        return score

    rejection(
        space,
        setup.budget,
        evaluated,
        evaluations=recipe.search.n_trials,
        rng=np.random.default_rng([recipe.seed, 2306]),
    )


def reached(trials: Sequence[FrozenTrial]) -> float:
    """The best validation accuracy under the budget; 0 without any."""
    front = front_of(trials, optuna.study.StudyDirection.MAXIMIZE)
    return float(front[-1].values[0]) if front else 0.0


def hypervolume(trials: Sequence[FrozenTrial], budget: int) -> float:
    """The mean over all budgets up to ``budget`` of the best validation accuracy that fits."""
    front = front_of(trials, optuna.study.StudyDirection.MAXIMIZE)
    sizes = [t.user_attrs["trainable_params"] for t in front] + [budget]
    steps = np.diff(sizes)
    return float(steps @ [t.values[0] for t in front]) / budget if front and budget else 0.0


def shown(values: list[float], base: list[float]) -> str:
    """A mean, and its difference to another way, in %."""
    difference = 100 * (np.array(values) - np.array(base))
    mean = f"{100 * np.mean(values):.1f}"
    if values == base:
        return mean
    return f"{mean} ({difference.mean():+.1f} ± {interval(difference):.1f})"


def show(runs: dict[str, list[dict[str, Any]]], name: str) -> None:
    """Print the tables."""
    base = next(iter(runs.values()))
    counts = sorted(map(int, base[0]["after"]))
    title = (
        f"{name}, {len(base)} seeds; differences to the first line are paired, with 95% intervals"
    )
    table = Table(
        "way",
        *(f"best %, {n}" for n in counts),
        *(f"hypervolume %, {n}" for n in counts),
        title=title,
    )
    for way, figures in runs.items():
        cells = []
        for key in ("best", "hypervolume"):
            for n in map(str, counts):
                cells.append(
                    shown([f["after"][n][key] for f in figures], [f["after"][n][key] for f in base])
                    if all(n in f["after"] for f in figures)
                    else "–"
                )
        table.add_row(way, *cells)
    Console(width=180).print(table)
    rules = ("highest", "cross-validated")
    columns = [column for rule in rules for column in (f"{rule}: test %", "gap", "parameters")]
    table = Table("way", *columns, title="What was chosen in the end, by either rule")
    for way, figures in runs.items():
        cells = []
        for rule in rules:
            if not all(rule in f for f in figures):
                continue
            found = [f[rule] for f in figures]
            cells.append(shown([f["test"] for f in found], [f["highest"]["test"] for f in base]))
            cells.append(f"{100 * np.mean([f['gap'] for f in found]):.1f}")
            cells.append(f"{np.mean([f['parameters'] for f in found]):,.0f}")
        table.add_row(way, *cells)
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="name of a recipe, or path of a .toml file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--n-trials", type=int, help="trials of each search; the recipe's by default"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], metavar="WAY")
    parser.add_argument("--folds", type=int, default=0, help="parts of the cross-validation")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("--small", action="store_true", help="seconds: two seeds, tiny searches")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recipe = override_recipe(arguments.recipe, settings=arguments.settings)
    if arguments.trials is not None:
        recipe = recipe.replace(search={"n_trials": arguments.trials})
    if arguments.small:
        arguments.seeds, recipe = 2, recipe.replace(**SMALL)
    if arguments.folds and not recipe.selection.finetune_epochs:
        parser.error("--folds needs epochs to train on: --set selection.finetune_epochs=50")
    runs = kept(arguments.out, recipe, arguments.ways)
    for seed in range(len(runs[arguments.ways[0]]), arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run, supernet = trained(recipe.replace(seed=seed), Path(folder))
            for way in arguments.ways:
                folds = arguments.folds if way == arguments.ways[0] else 0
                figures = searched(run, supernet, way, folds)
                runs[way].append(figures)
                print(f"seed {seed}, {way}: {figures}", file=sys.stderr, flush=True)
        if arguments.out is not None:  # after each seed: all of them may take hours
            keep(arguments.out, recipe, runs)
    show(runs, recipe.name)


def kept(path: Path | None, recipe: Recipe, ways: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The figures of the seeds that an earlier run has written, if it was of these searches."""
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    if path is None or not path.is_file():
        return runs
    document = json.loads(path.read_text(encoding="utf-8"))
    same = document.get("recipe") == recipe.model_dump(mode="json")
    return document["runs"] if same and [*document["runs"]] == ways else runs


def keep(path: Path, recipe: Recipe, runs: dict[str, list[dict[str, Any]]]) -> None:
    """Write the figures as JSON."""
    document = {
        "benchmark": "searches",
        "command": command_line(),
        "machine": MACHINE,
        "torch": torch.__version__,
        "recipe": recipe.model_dump(mode="json"),
        "runs": runs,
    }
    write_document(path, document)


if __name__ == "__main__":
    main()
