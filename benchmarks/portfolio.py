"""The shipped portfolio: settings of a training that are worth trying, most useful first.

Each candidate is a change to a recipe. The benchmark trains the wide supernet of each task with
each candidate on the training images, and takes its temperature-scaled validation loss and its
test accuracy. The portfolio begins with the recipe itself. Then it takes, one by one, the candidate
that raises most the mean test accuracy of what validation chooses from the list.

The table has the effect of each candidate alone, as a difference to the recipe itself. Under it is
the accuracy of lists of each length: on the tasks that the list was made from, and with each task
left out in turn.

Test images of these development tasks steer, so they are reported nowhere else. The same command
continues an interrupted run.

    python benchmarks/portfolio.py digits benchmarks/npz-suite.toml benchmarks/realnet-suite.toml \\
        --tasks digits sign_digits eth80_elevation rsscn7 --data MINIVTAB REALNET \\
        --epochs-ratio 0.5 --out benchmarks/results/portfolio.json --write portfolios/default.toml
    python benchmarks/portfolio.py digits --small
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from _document import MACHINE, portable_command, write_document
from quality import SMALL, with_checkpoint
from rich.console import Console
from rich.table import Table

from glora_automl._files import write_atomic
from glora_automl.pipeline import TrainingJob, Workspace, new_supernet, prepare, validate
from glora_automl.recipes import (
    Recipe,
    list_recipes,
    load_recipe,
    load_suite,
    nested,
    suite_recipes,
)
from glora_automl.supernet import widest_architecture
from glora_automl.training import evaluate

Settings = dict[str, Any]

CROP: Settings = {"training.scale": 0.5, "training.shift": 0.0}
PLAIN: Settings = {"training.mixup": 0.0, "training.cutmix": 0.0}
CANDIDATES: dict[str, Settings] = {
    "the recipe itself": {},
    "lr 1e-2": {"training.lr": 1e-2},
    "lr 1e-3": {"training.lr": 1e-3},
    "hflip": {"training.hflip": 0.5},
    "crop": CROP,
    "crop, hflip": CROP | {"training.hflip": 0.5},
    "crop, hflip, lr 1e-2": CROP | {"training.hflip": 0.5, "training.lr": 1e-2},
    "no mixing": PLAIN,
    "no mixing, crop, hflip": PLAIN | CROP | {"training.hflip": 0.5},
    "no shift": {"training.shift": 0.0},
    "mixup alone": {"training.cutmix": 0.0, "training.mixup": 0.4},
    "batches of 16": {"training.batch_size": 16},
}
"""Changes to a recipe by name."""

LENGTH = 8
"""Settings in the shipped portfolio."""


def find_tasks(arguments: argparse.Namespace) -> list[tuple[str, Recipe]]:
    """Return the development tasks with their recipes, all with the first seed, then the next."""
    found: list[tuple[str, Recipe]] = []
    data = list(arguments.data)
    for name in arguments.suites:
        if name in list_recipes():
            recipe = load_recipe(name)
            found += [
                (name, recipe.replace(seed=seed, name=f"{name}-seed{seed}"))
                for seed in range(arguments.seeds)
            ]
            continue
        folder = data.pop(0) if data else None
        suite = load_suite(name, data=folder)
        found += [
            (f"{suite.name}/{task}", with_checkpoint(recipe, folder))
            for task, recipe in suite_recipes(suite, n_seeds=arguments.seeds)
            if task in arguments.tasks
        ]
    if arguments.small:
        found = [(task, recipe.replace(**SMALL)) for task, recipe in found]
    found.sort(key=lambda pair: pair[1].seed)
    return found


def measure(recipe: Recipe, settings: Settings, ratio: float, runs: Path) -> dict[str, float]:
    """Train the wide supernet with some settings; return its validation loss and test accuracy."""
    recipe = recipe.replace(**nested(settings))
    context = prepare(recipe, Workspace(runs=runs), recipe.name)
    context = context.with_backbone(context.create_backbone()).holding_out()
    supernet = new_supernet(context)
    supernet.activate(widest_architecture(context.space))
    job = TrainingJob(context, "supernet", "Train", context.train, ratio)
    spent = job.run(supernet)
    score = validate(context, supernet)
    test = evaluate(supernet.model, *context.test())
    assert score.scaled_loss is not None
    return {"loss": score.scaled_loss, "test": test.accuracy, "n_restarts": spent.n_restarts}


def greedy(losses: np.ndarray, tests: np.ndarray, length: int) -> list[int]:
    """Return indices of candidates, the first one first, then the most useful ones.

    Args:
        losses: Validation losses ``(tasks, candidates)``.
        tests: Test accuracies ``(tasks, candidates)``.
        length: Length of the list.
    """
    chosen = [0]
    while len(chosen) < min(length, losses.shape[1]):
        rest = [i for i in range(losses.shape[1]) if i not in chosen]
        chosen.append(max(rest, key=lambda i: value([*chosen, i], losses, tests)))
    return chosen


def value(chosen: Sequence[int], losses: np.ndarray, tests: np.ndarray) -> float:
    """Return the mean test accuracy of the candidates that validation chooses from a list."""
    indices = np.asarray(chosen)[losses[:, chosen].argmin(axis=1)]
    return float(tests[np.arange(len(tests)), indices].mean())


def summarize(pairs: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Return the portfolio, the effect of each candidate, and the accuracy of lists."""
    groups: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for pair in pairs:
        groups.setdefault((pair["task"], pair["seed"]), {})[pair["candidate"]] = pair
    whole = {key: group for key, group in groups.items() if set(names) <= set(group)}
    tasks = np.array([task for task, _seed in whole])
    losses = np.array([[group[name]["loss"] for name in names] for group in whole.values()])
    tests = np.array([[group[name]["test"] for name in names] for group in whole.values()])
    chosen = greedy(losses, tests, LENGTH)
    left_out = {
        task: greedy(losses[tasks != task], tests[tasks != task], LENGTH)
        for task in dict.fromkeys(tasks)
        if (tasks != task).any()
    }
    lengths = range(1, len(chosen) + 1)
    return {
        "tasks": {
            task: {
                name: float(tests[tasks == task, i].mean() - tests[tasks == task, 0].mean())
                for i, name in enumerate(names)
            }
            for task in dict.fromkeys(tasks)
        },
        "base": {task: float(tests[tasks == task, 0].mean()) for task in dict.fromkeys(tasks)},
        "portfolio": [names[i] for i in chosen],
        "lists": {
            str(n): {
                "same tasks": value(chosen[:n], losses, tests),
                "task left out": float(
                    np.mean(
                        [
                            value(found[:n], losses[tasks == task], tests[tasks == task])
                            for task, found in left_out.items()
                        ]
                    )
                )
                if left_out
                else None,
            }
            for n in lengths
        },
    }


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console(width=140)
    table = Table(title="Effect of each candidate on the test accuracy, in points")
    table.add_column("candidate", no_wrap=True)
    tasks = figures["tasks"]
    for task in tasks:
        table.add_column(f"{task} ({100 * figures['base'][task]:.1f})", justify="right")
    table.add_column("mean", justify="right")
    for name in next(iter(tasks.values())):
        effects = [100 * tasks[task][name] for task in tasks]
        mean = float(np.mean(effects))
        table.add_row(name, *(f"{effect:+.1f}" for effect in effects), f"{mean:+.1f}")
    console.print(table)
    table = Table(title="Test accuracy of what validation chooses from the first n settings")
    for column in ("n", "last of them", "same tasks", "task left out"):
        table.add_column(column)
    for (n, row), name in zip(figures["lists"].items(), figures["portfolio"], strict=True):
        cells = ("–" if v is None else f"{100 * v:.1f}" for v in row.values())
        table.add_row(n, name, *cells)
    console.print(table)


def write_portfolio(path: Path, names: Sequence[str]) -> None:
    """Write the portfolio as TOML, without the recipe itself."""
    lines = [
        'description = "settings to try in this order, learned by benchmarks/portfolio.py"',
    ]
    for name in names[1:]:
        lines += ["", "[[settings]]"]
        lines += [f'"{key}" = {setting}' for key, setting in CANDIDATES[name].items()]
    text = "\n".join(lines) + "\n"
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="+", help="names of recipes, and files of suites")
    parser.add_argument("--data", nargs="*", default=[], help="folder of each suite's images")
    parser.add_argument("--tasks", nargs="*", default=[], help="development tasks of the suites")
    parser.add_argument("--seeds", type=int, default=1, help="seeds per task")
    parser.add_argument("--epochs-ratio", type=float, default=1.0, help="times training.epochs")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-portfolio"))
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("--write", type=Path, help="file for the portfolio as TOML")
    parser.add_argument("--small", action="store_true", help="seconds: tiny model and trainings")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = list(CANDIDATES)[: 3 if arguments.small else None]
    pairs: list[dict[str, Any]] = []
    if arguments.out is not None and arguments.out.exists():
        pairs = json.loads(arguments.out.read_text(encoding="utf-8"))["pairs"]
    command = portable_command(*arguments.data)
    done = {(pair["task"], pair["seed"], pair["candidate"]) for pair in pairs}
    for task, recipe in find_tasks(arguments):
        for name in names:
            if (task, recipe.seed, name) in done:
                continue
            found = measure(recipe, CANDIDATES[name], arguments.epochs_ratio, arguments.runs)
            pairs.append({"task": task, "seed": recipe.seed, "candidate": name, **found})
            print(task, recipe.seed, name, found, flush=True)
            if arguments.out is not None:
                document = {"benchmark": "portfolio", "command": command, "pairs": pairs}
                write_document(arguments.out, document)
    figures = summarize(pairs, names)
    show(figures)
    if arguments.out is not None:
        document = {
            "benchmark": "portfolio",
            "command": command,
            "machine": MACHINE,
            "epochs_ratio": arguments.epochs_ratio,
            "candidates": CANDIDATES,
            "figures": figures,
            "pairs": pairs,
        }
        write_document(arguments.out, document)
    if arguments.write is not None:
        write_portfolio(arguments.write, figures["portfolio"])


if __name__ == "__main__":
    main()
