"""Is a search worth its cost: the searched adapter beside those that people pick by hand.

Runs a recipe, or all tasks of a suite, once a seed and budget, and compares what was found as
`glora compare` does: with the same architecture on inherited weights and trained alone, with a
random search of the same supernet, and with the adapters that are the same in every layer: linear
probe, BitFit, SSF-like, LoRA, GLoRA. All are trained on the same images, by the same loop, and at
the same learning rates (`selection.lrs`), of which validation chooses. Each is tested once. One
more is LoRA, trained for as many epochs as the whole search has trained.

Told are

- for each arm its mean accuracies, what it was trained on, and the paired difference "searched
  minus arm" with a 95% interval of Student's t over pairs of task and seed, and how often it wins;
- the same for the hand-picked arm that validates best, which is what a search has to beat, for
  each task, too;
- Kendall's tau between accuracy with inherited weights and after training alone, over
  `--architectures` random ones a pair;
- what the search cost: images trained on and evaluated, in trainings of one hand-picked adapter.

Every pair is a study of its own in the folder of runs, so an interrupted benchmark goes on where it
stopped. Pairs that the file of figures has from an earlier run with the same settings are kept,
whatever machine that was on: all of them take many hours. `glora suite` with the same folder of
runs prints the suite's own table. With `--quick` there is no comparison, and searched adapters are
beside the controls of their studies alone.

    python benchmarks/quality.py digits --seeds 5 --out benchmarks/results/quality-digits.json
    python benchmarks/quality.py benchmarks/npz-suite.toml --data FOLDER \\
        --set backbone.checkpoint=FOLDER/backbone.safetensors --seeds 3 --architectures 0
    python benchmarks/quality.py digits --small
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from _document import MACHINE, command_line, interval, write_document
from rich.console import Console
from rich.table import Table

from glora_automl.commands import SearchResult, compare, search
from glora_automl.progress import LineProgress
from glora_automl.recipes import Recipe, list_recipes, load_suite, override_recipe, suite_recipes
from glora_automl.storages import default_url, open_storage
from glora_automl.study import CONTROLS_ASIDE, Comparison, Row, best_row, stage_costs
from glora_automl.training import Score

HAND_PICKED = "best hand-picked"
LONGER = "LoRA, as long as the search"
_RANKED = re.compile("LoRA r=[0-9]+")
SMALL: dict[str, Any] = {
    "backbone": {
        "kwargs": {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2},
        "pretraining": {"epochs": 2},
    },
    "training": {"epochs": 4, "warmup_epochs": 1},
    "search": {"n_trials": 6, "population_size": 4, "top": 2},
    "selection": {"n_candidates": 2, "finetune_epochs": 2, "rounds": [2, 1], "lrs": [3e-3, 1e-2]},
}


def studies(arguments: argparse.Namespace) -> list[tuple[str, Recipe]]:
    """The task and the recipe of each study: all tasks with the first seed, then the next."""
    found: list[tuple[str, Recipe]] = []
    if arguments.suite in list_recipes():
        recipe = override_recipe(arguments.suite, settings=arguments.settings)
        for seed in range(arguments.seeds):
            named = recipe.replace(seed=seed, name=f"{recipe.name}-seed{seed}")
            found.append((recipe.name, named))
    else:
        suite = load_suite(arguments.suite, data=arguments.data)
        found = suite_recipes(suite, settings=arguments.settings, seeds=arguments.seeds)
    found = [(task, recipe) for task, recipe in found if task in (arguments.tasks or [task])]
    if arguments.small:
        found = [(task, recipe.replace(**SMALL)) for task, recipe in found]
    if not arguments.budgets:
        return found
    return [
        (task, recipe.replace(budget=budget, name=f"{recipe.name}-{budget.replace('%', 'pct')}"))
        for budget in arguments.budgets
        for task, recipe in found
    ]


def measured(task: str, recipe: Recipe, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a study and the comparison with others have come to."""
    progress = LineProgress(lambda line: print(line, file=sys.stderr, flush=True), interval=60)
    progress.log(f"study {recipe.name}")
    place: dict[str, Any] = {"runs": arguments.runs, "device": arguments.device}
    found = search(recipe, progress=progress, **place)
    if arguments.quick:
        rows = _beside(found)
        picked = best_row(rows[2:])
        compared = Comparison(found.budget, rows, picked.name, None)
    else:
        compared = compare(
            recipe.name, architectures=arguments.architectures, progress=progress, **place
        )
    # That of the linear probe, as of any adapter that is trained alone at one rate.
    training = _row(compared, "linear probe").n_images // max(1, len(recipe.selection.lrs))
    told = compared.to_json()
    if not arguments.quick and any(_RANKED.fullmatch(row.name) for row in compared.rows):
        images = _row(compared, "searched").n_images
        longer = search(_as_long(recipe, images, training), **place)
        told["rows"].append({**longer.rows[0].to_json(), "name": LONGER})
    storage = open_storage(default_url(arguments.runs), write=False)
    study = optuna.load_study(study_name=recipe.name, storage=storage)
    (evaluated,) = (cost.n_images for cost in stage_costs(study) if cost.stage == "search")
    return {
        "study": recipe.name,
        "task": task,
        "seed": recipe.seed,
        "budget": compared.budget,
        "comparison": told,
        "baseline": found.selection.baseline,
        "evaluated": evaluated,
        "training": training,
    }


def _beside(found: SearchResult) -> tuple[Row, ...]:
    """The searched adapter, the same without controls that take part, and the controls."""
    searched, *others = (row for row in found.rows if row.n_params is not None)
    baselines = [row for row in others if row.name != CONTROLS_ASIDE]
    if len(baselines) < len(others):
        return searched, *others
    images = searched.n_images
    if found.selection.retrained is not None:
        images -= sum(row.n_images for row in baselines)
    return searched, replace(searched, name=CONTROLS_ASIDE, n_images=images), *baselines


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What all pairs have in common, whatever task, budget and seed, and wherever files are."""
    pinned = recipe.model_copy(update={"backbone": recipe.backbone.pinned()})
    flat = {**pinned.identity(), "search.n_trials": recipe.search.n_trials}
    own = ("task.", "seed", "budget")
    return {key: value for key, value in flat.items() if not key.startswith(own)}


def kept_pairs(path: Path | None, same: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Pairs of an earlier run with the same settings, by the name of their study.

    Args:
        path: File of its figures, if there is one.
        same: What all pairs have in common.
    """
    if path is None or not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    if {key: document.get(key) for key in same} != same:
        return {}
    return {pair["study"]: pair for pair in document["pairs"]}


def save(
    pairs: Sequence[dict[str, Any]],
    known: dict[str, dict[str, Any]],
    same: dict[str, Any],
    path: Path | None,
) -> None:
    """Write the figures of all pairs, those of an earlier run that are not yet met included."""
    if path is None:
        return
    met = {pair["study"] for pair in pairs}
    every = [*pairs, *(pair for name, pair in known.items() if name not in met)]
    document = {
        "benchmark": "quality",
        "command": command_line(),
        "machine": {**MACHINE, "threads": torch.get_num_threads()},
        "torch": torch.__version__,
        **same,
        "pairs": every,
        "figures": summarised(every),
    }
    write_document(path, document)


def _as_long(recipe: Recipe, images: int, training: int) -> Recipe:
    """LoRA of the highest rank that fits, trained on so many images in all.

    Args:
        recipe: Of the search.
        images: Those that the search was trained on.
        training: Those of one training of an adapter.
    """
    selection, epochs = recipe.selection, recipe.standalone_epochs
    longer = max(epochs, round(epochs * images / training / max(1, len(selection.lrs))))
    return recipe.replace(
        name=f"{recipe.name}-longer",
        architecture="lora",
        training={"epochs": longer - selection.finetune_epochs},
    )


def _row(compared: Comparison, name: str) -> Row:
    return next(row for row in compared.rows if row.name == name)


def methods(pair: dict[str, Any]) -> dict[str, Row]:
    """The rows of a pair; ranks are what fits, and the one that validates best has a second name.

    Several ranks of LoRA may fit. The highest has the arm's name, others keep theirs.
    """
    compared = Comparison.from_json(pair["comparison"])
    rows = {row.name: row for row in compared.rows}
    ranked = [name for name in rows if _RANKED.fullmatch(name)]
    if ranked:
        highest = max(ranked, key=lambda name: int(name.partition("=")[2]))
        rows["LoRA, highest rank"] = rows.pop(highest)
    for name in [name for name in rows if name.endswith(" in attention")]:
        rows["LoRA in attention"] = rows.pop(name)
    for name in [name for name in rows if name.startswith("GLoRA r=")]:
        rows["GLoRA, unsearched"] = rows.pop(name)
    rows[HAND_PICKED] = _row(compared, compared.best_uniform)
    return rows


def summarised(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and paired differences over pairs."""
    by_arm: dict[str, list[tuple[dict[str, Any], Row, Row]]] = {}
    for pair in pairs:
        rows = methods(pair)
        for name, row in rows.items():
            by_arm.setdefault(name, []).append((pair, row, rows["searched"]))
    figures: dict[str, Any] = {}
    for name, found in by_arm.items():
        rows = [row for _, row, _ in found]
        figures[name] = {
            "pairs": len(found),
            "parameters": float(np.mean([row.n_params for row in rows])),
            "validation": float(np.mean([_accuracy(row.validation) for row in rows])),
            "test": float(np.mean([_accuracy(row.test) for row in rows])),
            "trainings": float(
                np.mean([row.n_images / pair["training"] for pair, row, _ in found])
            ),
            **_difference(
                [_accuracy(searched.test) - _accuracy(row.test) for _, row, searched in found]
            ),
        }
    picked = by_arm[HAND_PICKED]
    asides = [row for _, row, _ in by_arm.get(CONTROLS_ASIDE, [])]
    differences = {"searched": _over(picked, [searched for _, _, searched in picked])}
    if len(asides) == len(pairs):
        differences[CONTROLS_ASIDE] = _over(picked, asides)
    taus = [pair["comparison"]["inherited"] for pair in pairs]
    known = [tau["tau"] for tau in taus if tau is not None and tau["tau"] is not None]
    return {
        "methods": figures,
        "tasks": {
            task: {name: found[task] for name, found in differences.items()}
            for task in differences["searched"]
        },
        "tau": {"mean": float(np.mean(known)), "interval": interval(known)} if known else None,
        "evaluated": float(np.mean([pair["evaluated"] / pair["training"] for pair in pairs])),
        "baselines": sum(pair["baseline"] is not None for pair in pairs),
    }


def _over(
    picked: Sequence[tuple[dict[str, Any], Row, Row]], rows: Sequence[Row]
) -> dict[str, dict[str, Any]]:
    """Paired differences of rows and those that were picked by hand, over all pairs and by task."""
    values: dict[str, list[float]] = {"all": []}
    for (pair, hand, _), row in zip(picked, rows, strict=True):
        difference = _accuracy(row.test) - _accuracy(hand.test)
        values["all"].append(difference)
        values.setdefault(pair["task"], []).append(difference)
    return {task: _difference(found) for task, found in values.items()}


def _known(score: Score | None) -> Score:
    assert score is not None, "all arms are validated and tested"
    return score


def _accuracy(score: Score | None) -> float:
    return _known(score).accuracy


def _difference(values: Sequence[float]) -> dict[str, Any]:
    return {
        "difference": float(np.mean(values)),
        "interval": interval(values),
        "wins": sum(value > 0 for value in values),
        "ties": sum(value == 0 for value in values),
        "of": len(values),
    }


def _shown(entry: dict[str, Any]) -> tuple[str, str]:
    half = "" if np.isnan(entry["interval"]) else f" ± {100 * entry['interval']:.1f}"
    ties = f", {entry['ties']} ties" if entry["ties"] else ""
    return f"{100 * entry['difference']:+.1f}{half}", f"{entry['wins']} of {entry['of']}{ties}"


def show(figures: dict[str, Any], title: str) -> None:
    """Print the tables."""
    console = Console(width=120)
    columns = ("parameters", "validation %", "test %", "trainings", "searched minus arm", "wins")
    table = Table("method", *columns, title=title)
    for name, entry in figures["methods"].items():
        table.add_row(
            name if entry["pairs"] == figures["methods"]["searched"]["pairs"] else f"{name} *",
            f"{entry['parameters']:,.0f}",
            f"{100 * entry['validation']:.1f}",
            f"{100 * entry['test']:.1f}",
            f"{entry['trainings']:.1f}",
            *(("–", "–") if name == "searched" else _shown(entry)),
        )
    console.print(table)
    if len({entry["pairs"] for entry in figures["methods"].values()}) > 1:
        console.print("* does not fit all budgets: its means are of those that it fits")
    shown = list(figures["tasks"]["all"])
    table = Table("task", title=f"Minus {HAND_PICKED}, in points of test accuracy")
    for name in shown:
        table.add_column(name)
        table.add_column("wins")
    for task, entry in figures["tasks"].items():
        table.add_row(task, *(text for name in shown for text in _shown(entry[name])))
    console.print(table)
    searched = figures["methods"]["searched"]["trainings"]
    print(
        f"The search was trained on as many images as {searched:.1f} trainings of one adapter; it "
        f"has evaluated as many as {figures['evaluated']:.1f} more."
    )
    print(
        f"A control validated better than what was searched, and was chosen, in "
        f"{figures['controls']} of {figures['arms']['searched']['pairs']} pairs."
    )
    if figures["tau"] is not None:
        tau = figures["tau"]
        print(f"Kendall's tau, inherited and trained alone: {tau['mean']:.2f}, 95% interval ± "
              f"{tau['interval']:.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", help="name of a recipe; or name, .toml file or folder of a suite")
    parser.add_argument("--data", help="folder of the suite's images")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="some of the suite's tasks")
    parser.add_argument("--budgets", nargs="+", help="budgets; the recipe's by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--architectures", type=int, default=20, help="trained alone, for the tau")
    parser.add_argument("--quick", action="store_true", help="only beside the study's controls")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-quality"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("--small", action="store_true", help="seconds: hardly trained")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.seeds, arguments.architectures = 1, min(arguments.architectures, 2)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    wanted = studies(arguments)
    if not wanted:
        parser.error(f"--tasks must name tasks of the suite, got {' '.join(arguments.tasks)}")
    same = {
        "settings": settings_of(wanted[0][1]),
        "quick": arguments.quick,
        "architectures": 0 if arguments.quick else arguments.architectures,
    }
    known = kept_pairs(arguments.out, same)
    pairs: list[dict[str, Any]] = []
    for task, recipe in wanted:
        pairs.append(known.get(recipe.name) or measured(task, recipe, arguments))
        save(pairs, known, same, arguments.out)  # after each pair: all of them may take hours
    show(summarised(pairs), f"{arguments.suite}: {len(pairs)} pairs of task and seed")


if __name__ == "__main__":
    main()
