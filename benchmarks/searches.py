"""Ways to search one supernet: samplers, racing, screening, and how the winner is chosen.

For each seed a recipe's supernet is trained once, and searched in each way with as many trials.
Told are, as means over the seeds with a 95% confidence interval (Student's t) of the paired
difference to the recipe's own way: the best validation accuracy under the budget, the images that
were evaluated, and of the architecture that is chosen, with the weights of the supernet, its
parameters, its validation accuracy and its test accuracy: by the best accuracy, and by the smallest
of those that a paired test cannot tell from it. Test images are looked at once a way, for what was
chosen.

    python benchmarks/searches.py digits --seeds 5 --out benchmarks/results/searches-digits.json
    python benchmarks/searches.py digits --small
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.storages import InMemoryStorage
from rich.console import Console
from rich.table import Table
from scipy import stats

from glora_automl._files import write_atomic
from glora_automl.progress import LineProgress, Progress
from glora_automl.storages import open_artifacts
from glora_automl.study import Recipe, load_recipe
from glora_automl.study._proposals import Proposer, create_sampler
from glora_automl.study._run import Run
from glora_automl.study._selection import Candidate, rank
from glora_automl.study._setup import prepare
from glora_automl.study._stages import Stages
from glora_automl.study._trials import best_trials, run_trials
from glora_automl.study._weights import load_backbone, load_supernet
from glora_automl.study._worker import Worker
from glora_automl.supernet import Supernet, evaluate, evaluate_each

WAYS: dict[str, dict[str, Any]] = {
    "evolution": {},
    "evolution, racing 0": {"racing_error": 0.0},
    "evolution, racing 0.05": {"racing_error": 0.05},
    "evolution, racing 0.3": {"racing_error": 0.3},
    "evolution, screen 24": {"screen": 24},
    "tpe": {"sampler": "tpe"},
    "nsga2": {"sampler": "nsga2"},
    "random": {"sampler": "random"},
}
SIGNIFICANCE = 0.05
SMALL = {
    "backbone": {"pretraining": {"epochs": 2}},
    "training": {"epochs": 4, "warmup_epochs": 1},
    "search": {"trials": 8, "population": 4, "top": 2},
    "selection": {"candidates": 2},
}


def trained(recipe: Recipe, folder: Path) -> tuple[Run, Supernet]:
    """A recipe's supernet."""
    storage = InMemoryStorage()
    progress = LineProgress(lambda line: print(line, file=sys.stderr, flush=True))
    setup = prepare(recipe, runs=folder, name="s", device="auto", progress=progress)
    worker = Worker(storage)
    stages = Stages("s", storage, worker, setup.folder, progress, "")
    study = optuna.create_study(storage=storage)
    artifacts = open_artifacts(str(folder / "artifacts"), cache=folder / "downloads")
    run = load_backbone(Run(study, setup, stages, artifacts, worker))
    return run, load_supernet(run)


def searched(run: Run, supernet: Supernet, changes: dict[str, Any]) -> dict[str, Any]:
    """Figures of one way to search a supernet."""
    recipe = run.setup.recipe.replace(search=changes)
    storage = InMemoryStorage()
    setup = replace(run.setup, recipe=recipe, progress=Progress())
    study = optuna.create_study(
        storage=storage, direction="maximize", sampler=create_sampler(setup)
    )
    worker = Worker(storage)
    run = replace(run, study=study, setup=setup, worker=worker)
    run_trials(
        study,
        Proposer(run, supernet),
        worker=worker,
        target=lambda: recipe.search.trials,
        progress=setup.progress,
    )
    candidates = []
    for trial in best_trials(study, recipe.selection.candidates):
        architecture = setup.space.architecture(trial.params)
        with supernet.merged(architecture) as model:
            score, right = evaluate_each(model, *setup.validation)
        count = architecture.count(setup.space.shapes)
        candidates.append(Candidate(score, right.cpu(), count, trial.number, architecture))
    trials = study.get_trials(deepcopy=False)
    figures: dict[str, Any] = {
        "best": study.best_value,
        "images": sum(t.user_attrs["validation_images"] for t in trials),
        "pruned": sum(t.state == optuna.trial.TrialState.PRUNED for t in trials),
    }
    for rule, significance in (("highest", 1.0), ("smallest", SIGNIFICANCE)):
        chosen = rank(candidates, significance)[0]
        with supernet.merged(chosen.architecture) as model:
            test = evaluate(model, *setup.test())
        figures[rule] = {
            "parameters": chosen.parameters,
            "validation": chosen.score.accuracy,
            "test": test.accuracy,
            "gap": chosen.score.accuracy - test.accuracy,
        }
    return figures


def interval(values: np.ndarray) -> float:
    """Half the width of the 95% confidence interval of a mean."""
    if len(values) < 2:
        return float("nan")
    quantile = stats.t.ppf(0.975, len(values) - 1)
    return float(quantile * values.std(ddof=1) / np.sqrt(len(values)))


def shown(values: list[float], base: list[float]) -> str:
    """A mean, and its difference to another way, in %."""
    difference = 100 * (np.array(values) - np.array(base))
    mean = f"{100 * np.mean(values):.1f}"
    if values == base:
        return mean
    return f"{mean} ({difference.mean():+.1f} ± {interval(difference):.1f})"


def show(runs: dict[str, list[dict[str, Any]]], trials: int) -> None:
    """Print the table."""
    table = Table(
        "way",
        "best val %",
        "images, of all",
        "chosen test %",
        "gap",
        "smallest: parameters",
        "test %",
        "gap",
        title=f"{trials} trials; differences to the first line are paired, with 95% intervals",
    )
    base = next(iter(runs.values()))
    most = max(run["images"] for run in base)
    for way, figures in runs.items():
        table.add_row(
            way,
            shown([f["best"] for f in figures], [f["best"] for f in base]),
            f"{np.mean([f['images'] for f in figures]) / most:.2f}",
            shown([f["highest"]["test"] for f in figures], [f["highest"]["test"] for f in base]),
            f"{100 * np.mean([f['highest']['gap'] for f in figures]):.1f}",
            f"{np.mean([f['smallest']['parameters'] for f in figures]):,.0f} of "
            f"{np.mean([f['highest']['parameters'] for f in figures]):,.0f}",
            f"{100 * np.mean([f['smallest']['test'] for f in figures]):.1f}",
            f"{100 * np.mean([f['smallest']['gap'] for f in figures]):.1f}",
        )
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="name of a recipe, or path of a .toml file")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, help="trials of each search; the recipe's by default")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("--small", action="store_true", help="seconds: two seeds, tiny searches")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recipe = load_recipe(arguments.recipe)
    if arguments.trials is not None:
        recipe = recipe.replace(search={"trials": arguments.trials})
    if arguments.small:
        arguments.seeds, recipe = 2, recipe.replace(**SMALL)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run, supernet = trained(recipe.replace(seed=seed), Path(folder))
            for way, changes in WAYS.items():
                figures = searched(run, supernet, changes)
                runs[way].append(figures)
                print(f"seed {seed}, {way}: {figures}", file=sys.stderr, flush=True)
    show(runs, recipe.search.trials)
    if arguments.out is not None:
        document = {
            "benchmark": "searches",
            "command": "python " + " ".join([Path(sys.argv[0]).as_posix(), *sys.argv[1:]]),
            "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
            "torch": torch.__version__,
            "recipe": recipe.model_dump(mode="json"),
            "significance": SIGNIFICANCE,
            "runs": runs,
        }
        text = json.dumps(document, indent=1)
        write_atomic(arguments.out, lambda file: file.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
