"""Test accuracy and cost of the search, compared with presets at equal cost.

The benchmark runs a recipe, or all tasks of a suite, once per seed and budget. It compares, as
``glora compare`` does,

- the searched adapter;
- presets: linear probe, BitFit, SSF, LoRA, GLoRA, as far as they fit the budget;
- with `--set selection.holdout=true`: the adapter that validation selects among the searched one
  and the baselines, and the preset that validates best;
- LoRA at equal cost: a longer schedule, with the cost of the whole search;
- truncations of the same supernet: the best of as many random ones as the search has trials, one
  random one, and LoRA of one rank;
- the searched architecture, trained from the backbone.

All methods have the same images, recipe and refit on all labelled images, end with the last epoch
and are tested once. Costs are in trainings of LoRA on the training images. They count images:
one for a forward pass, three for forward and backward pass.

The tables have, per method, mean parameters, accuracies and cost, and the paired difference of test
accuracies "search minus method". Its 95 % intervals (Student's t) are over tasks, with the seeds of
a task averaged, and over pairs of a task and a seed. Differences of at most 0.5 points are level. A
method has collapsed on a pair if it is more than 2 points below the linear probe. Tasks on which
all methods are within a point of the linear probe are also reported apart, and so are the tasks
that `--tuned-on` does not name.

Each pair is a study in the runs folder, and its figures are written at its end. The same command
continues an interrupted run and keeps the pairs in the file of figures. `glora suite` with the same
runs folder prints the suite's own table. A checkpoint that the recipe names and that does not exist
is looked up in the folder of `--data`.

    python benchmarks/quality.py digits --seeds 5 --out benchmarks/results/quality-digits.json
    python benchmarks/quality.py benchmarks/npz-suite.toml --data FOLDER --seeds 3 --jobs 2 \\
        --tuned-on sign_digits rsscn7 --out benchmarks/results/quality-npz-suite.json
    python benchmarks/quality.py benchmarks/realnet-suite.toml --data FOLDER --seeds 3 --jobs 2
    python benchmarks/quality.py digits --small
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import optuna
import torch
from _document import MACHINE, portable_command, write_document
from _processes import CONTEXT
from _quality import SEARCHED, SELECTED, Job, Pair, measure_pair, summarize
from rich.console import Console
from rich.table import Table

from glora_automl.errors import GLoRAError
from glora_automl.recipes import Recipe, list_recipes, load_suite, override_recipe, suite_recipes

DECLARED = "declared"
"""Name of the budget that the recipe declares."""

SMALL: dict[str, Any] = {
    "backbone": {
        "kwargs": {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2},
        "pretraining": {"epochs": 2},
        "head_init": "logistic",
    },
    "training": {"epochs": 4, "warmup_epochs": 1},
    "search": {"n_trials": 6, "population_size": 4, "n_parents": 2},
    "selection": {"n_candidates": 1, "epochs_ratio": 0.5},
}


def find_jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return the pairs to measure: all tasks with the first seed, then the next seed."""
    found: list[tuple[str, Recipe]]
    if arguments.suite in list_recipes():
        recipe = override_recipe(arguments.suite, settings=arguments.settings)
        found = [
            (recipe.name, recipe.replace(seed=seed, name=f"{recipe.name}-seed{seed}"))
            for seed in range(recipe.seed, recipe.seed + arguments.seeds)
        ]
    else:
        suite = load_suite(arguments.suite, data=arguments.data)
        found = suite_recipes(suite, settings=arguments.settings, n_seeds=arguments.seeds)
    found = [(task, recipe) for task, recipe in found if task in (arguments.tasks or [task])]
    found = [(task, with_checkpoint(recipe, arguments.data)) for task, recipe in found]
    if arguments.small:
        found = [(task, recipe.replace(**SMALL)) for task, recipe in found]
    rest = arguments.runs, arguments.device, arguments.quick, arguments.n_architectures
    if not arguments.budgets:
        return [Job(task, recipe, DECLARED, *rest) for task, recipe in found]
    return [
        Job(
            task,
            recipe.replace(budget=budget, name=f"{recipe.name}-{budget.replace('%', 'pct')}"),
            budget,
            *rest,
        )
        for budget in arguments.budgets
        for task, recipe in found
    ]


def with_checkpoint(recipe: Recipe, data: str | None) -> Recipe:
    """Return the recipe with its checkpoint from the folder of images, if it is only there."""
    checkpoint = recipe.backbone.checkpoint
    if data is None or checkpoint is None or Path(checkpoint).exists():
        return recipe
    beside = Path(data).expanduser() / Path(checkpoint).name
    return recipe.replace(backbone={"checkpoint": str(beside)}) if beside.exists() else recipe


def shared_settings(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the settings that all pairs share, without task, budget, seed and places of files."""
    job = jobs[0]
    pinned = job.recipe.model_copy(update={"backbone": job.recipe.backbone.pinned()})
    flat = {**pinned.identity(), "search.n_trials": job.recipe.search.n_trials}
    own = ("task.", "seed", "budget")
    return {
        "recipe": {key: value for key, value in flat.items() if not key.startswith(own)},
        "quick": job.quick,
        "n_architectures": 0 if job.quick else job.n_architectures,
    }


def kept_pairs(path: Path | None, settings: Mapping[str, Any]) -> dict[str, Pair] | None:
    """Return the pairs of an earlier run by study; None if it had other settings."""
    if path is None or not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    plain = json.loads(json.dumps(settings))
    if document.get("settings") != plain:
        return None
    return {pair["study"]: pair for pair in document["pairs"]}


def save(
    path: Path, pairs: Sequence[Pair], settings: Mapping[str, Any], arguments: argparse.Namespace
) -> None:
    """Write the figures."""
    document = {
        "benchmark": "quality",
        "command": portable_command(arguments.data),
        "machine": {**MACHINE, "threads": 1 if arguments.jobs > 1 else torch.get_num_threads()},
        "torch": torch.__version__,
        "settings": settings,
        "tuned_on": arguments.tuned_on,
        "figures": summarize(pairs, arguments.tuned_on),
        "pairs": pairs,
    }
    write_document(path, document)


def measure_all(jobs: Sequence[Job], n_processes: int) -> Iterator[tuple[Job, Pair | GLoRAError]]:
    """Yield each pair when it is measured; a pair that fails does not end the others."""
    if n_processes == 1:
        for job in jobs:
            yield job, _measure(job)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(
        n_processes, mp_context=CONTEXT, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        running = {pool.submit(_measure, job): job for job in jobs}
        for future in as_completed(running):
            yield running[future], future.result()


def _measure(job: Job) -> Pair | GLoRAError:
    try:
        return measure_pair(job)
    except GLoRAError as error:
        return error


def show(figures: Mapping[str, Any], title: str) -> None:
    """Print the tables of all budgets."""
    console = Console(width=160)
    for budget, found in figures.items():
        where = f"{title}, budget {budget}"
        for name, view in found["views"].items():
            console.print(_method_table(view, f"{where}: {name} ({', '.join(view['tasks'])})"))
            if any(m["n_pairs"] < view["n_pairs"] for m in view["methods"].values()):
                console.print("* does not fit on all pairs; means of the others")
        console.print(_task_table(found, f"{where}: mean test accuracy in %"))
        if SELECTED in found["views"]["all tasks"]["methods"]:
            console.print(
                f"A baseline was selected on {found['n_presets_selected']} of {found['n_pairs']} "
                "pairs."
            )
        if (rho := found["rho"]) is not None:
            console.print(
                f"Spearman's rho of inherited and trained accuracy: {rho['mean']:.2f}"
                + ("" if rho["interval"] is None else f" ± {rho['interval']:.2f}")
            )


def _method_table(view: Mapping[str, Any], title: str) -> Table:
    caption = "minus: test accuracy of the search minus that of the method, and ahead/level/behind"
    table = Table(title=title, caption=caption)
    table.add_column("method", no_wrap=True)
    for column in ("parameters", "validation %", "test %", "cost", "collapses"):
        table.add_column(column, justify="right")
    for unit in ("tasks", "pairs"):
        table.add_column(f"minus, {unit}", justify="right", no_wrap=True)
        table.add_column("a/l/b", no_wrap=True)
    for name, entry in view["methods"].items():
        differences = [_difference_cells(entry[key]) for key in ("over_tasks", "over_pairs")]
        table.add_row(
            name if entry["n_pairs"] == view["n_pairs"] else f"{name} *",
            f"{entry['n_params']:,.0f}",
            _percent(entry["validation"]),
            _percent(entry["test"]),
            f"{entry['cost']:.2f}",
            str(entry["n_collapses"]),
            *(["–"] * 4 if name == SEARCHED else [cell for cells in differences for cell in cells]),
        )
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _difference_cells(entry: Mapping[str, Any]) -> tuple[str, str]:
    half = "" if entry["interval"] is None else f" ± {100 * entry['interval']:.1f}"
    counts = "/".join(str(entry[key]) for key in ("ahead", "level", "behind"))
    return f"{100 * entry['difference']:+.1f}{half}", counts


def _task_table(found: Mapping[str, Any], title: str) -> Table:
    """Return the table of tasks; in brackets, accuracy of the search minus that of the method."""
    tasks = found["tasks"]
    names = dict.fromkeys(name for means in tasks.values() for name in means)
    table = Table(title=title, caption="in brackets: search minus method")
    table.add_column("method", no_wrap=True)
    for task in tasks:
        table.add_column(task, justify="right")
    for name in names:
        cells = []
        for means in tasks.values():
            mean = means.get(name)
            minus = "" if mean is None else f" ({100 * (means[SEARCHED] - mean):+.1f})"
            cells.append(_percent(mean) + ("" if name == SEARCHED else minus))
        table.add_row(name, *cells)
    return table


def create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", help="name of a recipe; or name, .toml file or folder of a suite")
    parser.add_argument("--data", help="folder of the suite's images, and of a checkpoint")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="some of the suite's tasks")
    parser.add_argument("--budgets", nargs="+", help="budgets; the recipe's by default")
    parser.add_argument("--seeds", type=int, default=3, help="seeds per task and budget")
    parser.add_argument(
        "--tuned-on", nargs="+", default=[], metavar="NAME", help="tasks that settings came from"
    )
    parser.add_argument(
        "--n-architectures",
        type=int,
        default=0,
        help="architectures for Spearman's rho per pair, with held-out images",
    )
    parser.add_argument(
        "--quick", action="store_true", help="compare with baselines and LoRA at equal cost"
    )
    parser.add_argument("--jobs", type=int, default=1, help="pairs at a time, one thread each")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-quality"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("--small", action="store_true", help="seconds: tiny model and trainings")
    return parser


def main() -> None:
    parser = create_parser()
    arguments = parser.parse_args()
    if arguments.small:
        arguments.seeds = min(arguments.seeds, 2)
        arguments.n_architectures = min(arguments.n_architectures, 2)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    jobs = find_jobs(arguments)
    if not jobs:
        parser.error(f"--tasks must name tasks of the suite, got {' '.join(arguments.tasks)}")
    if unknown := set(arguments.tuned_on) - {job.task for job in jobs}:
        parser.error(f"--tuned-on must name measured tasks, got {' '.join(sorted(unknown))}")
    holds_out = all(j.recipe.selection.holdout or j.recipe.needs_holdout for j in jobs)
    if arguments.n_architectures and not arguments.quick and not holds_out:
        parser.error("--n-architectures needs --set selection.holdout=true")
    settings = shared_settings(jobs)
    kept = kept_pairs(arguments.out, settings)
    if kept is None:
        parser.error(
            f"--out must be a new file or have the same settings, got {arguments.out}. Delete it "
            "or name another file."
        )
    failed = 0
    for job, found in measure_all([j for j in jobs if j.recipe.name not in kept], arguments.jobs):
        if isinstance(found, GLoRAError):
            failed += 1
            print(f"{job.recipe.name}: {found}", file=sys.stderr, flush=True)
            continue
        kept[found["study"]] = found
        if arguments.out is not None:
            save(arguments.out, [*kept.values()], settings, arguments)
    if kept:
        show(summarize([*kept.values()], arguments.tuned_on), arguments.suite)
    if failed:
        sys.exit(f"{failed} of {len(jobs)} pairs failed. Run the command again.")


if __name__ == "__main__":
    main()
