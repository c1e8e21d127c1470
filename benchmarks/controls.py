"""The searched adapter against the controls, over several seeds.

Runs a recipe once a seed (other images to fit, validate and test on, other initial values, other
paths) and prints, for each arm, the mean test accuracy over the seeds, and for each control the
paired difference "searched minus control" with a 95% confidence interval of Student's t.

Every seed is a study of its own in the runs folder, so that an interrupted benchmark goes on where
it stopped. Test images are read once a study, at its end; nothing is chosen by them.

    python benchmarks/controls.py digits --seeds 5 --out benchmarks/results/controls-digits.json
    python benchmarks/controls.py digits --small
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from _document import MACHINE, interval, write_document
from rich.console import Console
from rich.table import Table

from glora_automl.progress import LineProgress
from glora_automl.study import load_recipe, search, summarize

SMALL = {
    "backbone": {
        "kwargs": {"patch_size": 4, "embed_dim": 32, "depth": 2},
        "pretraining": {"epochs": 2},
    },
    "training": {"epochs": 4, "warmup_epochs": 1},
    "search": {"trials": 4, "population": 2, "top": 2},
    "selection": {"finetune_epochs": 2, "candidates": 2},
}


def arm_name(name: str) -> str:
    """LoRA's rank may differ between seeds when the budget is a share; the arm is the same."""
    return "LoRA, highest uniform rank" if name.startswith("LoRA") else name


def compare(summaries: list[dict]) -> list[dict]:
    """One entry an arm: means over the seeds, and searched minus arm, paired by seed."""
    by_arm: dict[str, list[dict]] = {}
    for summary in summaries:
        for row in summary["result"]:
            if row["parameters"] is not None:
                by_arm.setdefault(arm_name(row["name"]), []).append(row)
    searched = np.array([row["test"]["accuracy"] for row in by_arm["searched"]])
    table = []
    for name, rows in by_arm.items():
        test = np.array([row["test"]["accuracy"] for row in rows])
        entry = {
            "arm": name,
            "seeds": len(rows),
            "parameters": [row["parameters"] for row in rows],
            "validation_accuracy": [row["validation"]["accuracy"] for row in rows],
            "test_accuracy": test.tolist(),
            "test_mean": float(test.mean()),
            "test_interval": interval(test),
            "images": rows[0]["images"],
            "seconds": [row["seconds"] for row in rows],
        }
        if len(test) == len(searched) and name != "searched":
            difference = searched - test
            entry |= {
                "searched_minus_arm": float(difference.mean()),
                "searched_minus_arm_interval": interval(difference),
                "wins": int((difference > 0).sum()),
            }
        table.append(entry)
    return table


def show(table: list[dict], title: str) -> None:
    """Print the comparison."""
    columns = ("arm", "parameters", "validation %", "test %", "searched minus arm", "wins")
    printed = Table(*columns, title=title)
    for entry in table:
        difference = "–"
        if "searched_minus_arm" in entry:
            half = entry["searched_minus_arm_interval"]
            difference = f"{100 * entry['searched_minus_arm']:+.1f} ± {100 * half:.1f}"
        printed.add_row(
            entry["arm"],
            f"{np.mean(entry['parameters']):,.0f}",
            f"{100 * np.mean(entry['validation_accuracy']):.1f}",
            f"{100 * entry['test_mean']:.1f} ± {100 * entry['test_interval']:.1f}",
            difference,
            f"{entry['wins']}/{entry['seeds']}" if "wins" in entry else "–",
        )
    Console(width=120).print(printed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="name of a recipe, or path of a .toml file")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0 on")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-controls"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("--small", action="store_true", help="seconds: 2 seeds, hardly trained")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    seeds = 2 if arguments.small else arguments.seeds
    if arguments.small:
        recipe = recipe.replace(**SMALL)
    summaries = []
    for seed in range(seeds):
        progress = LineProgress(lambda line: print(line, file=sys.stderr, flush=True), interval=30)
        progress.say(f"seed {seed}")
        result = search(
            recipe.replace(seed=seed),
            name=f"{recipe.name}-seed{seed}",
            runs=arguments.runs,
            device=arguments.device,
            progress=progress,
        )
        summaries.append(summarize(result.study))
    table = compare(summaries)
    show(table, f"{recipe.name}, {seeds} seeds, mean and 95% interval over seeds")
    if arguments.out is not None:
        document = {
            "benchmark": "controls",
            "command": f"python benchmarks/controls.py {recipe.name} --seeds {seeds}"
            + (" --small" if arguments.small else ""),
            "machine": {**MACHINE, "threads": torch.get_num_threads()},
            "device": arguments.device,
            "torch": torch.__version__,
            "recipe": recipe.model_dump(mode="json"),
            "arms": table,
            "stages": [summary["seconds"] for summary in summaries],
        }
        write_document(arguments.out, document)


if __name__ == "__main__":
    main()
