"""Where the time of a whole search goes, and how much of it the device works.

A search as users run it, in a folder of its own with SQLite: supernet, trials, selection, one
test; on random images, for a model with random weights. The published schedule is 1,050 trials of
200 validation images on ViT-B (arXiv 2306.07967). Training is short here: a step of it is
measured by `training.py`.

Told are the seconds of each stage, and of the trials: those of evaluations, those in which an
evaluation runs as a share of the wall time of the search, and the rest, which is sampler, storage
and progress. On a GPU that rest is done while the next evaluation runs.

    python benchmarks/end_to_end.py --device cuda --out benchmarks/results/end_to_end-cuda.json
    python benchmarks/end_to_end.py --models digits --n-trials 300 \\
        --out benchmarks/results/end_to_end-cpu.json
    python benchmarks/end_to_end.py --small
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from _speed import MODELS, parser_of, write
from rich.console import Console
from rich.table import Table

from glora_automl.commands import search
from glora_automl.progress import Progress
from glora_automl.recipes import override_recipe
from glora_automl.recipes._overrides import with_settings
from glora_automl.recipes._recipe import parse_recipe
from glora_automl.study import stage_costs
from glora_automl.supernet import Scorer

IMAGES = 200
FITTED = 64


def measured(
    name: str, trials: int, images: int, device: str, settings: list[str]
) -> dict[str, Any]:
    """Run a search and take its time."""
    timm_name, keywords = MODELS[name]
    size = keywords.get("img_size", 224)
    rng = np.random.default_rng(0)
    count = FITTED + images + 40
    x = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    y = np.arange(count) % 10
    table = override_recipe("own").model_dump(mode="json")
    table |= {
        "name": "end-to-end",
        "task": {"source": "arrays", "validation": images, "test_size": 40},
        "backbone": {"model": timm_name, "kwargs": keywords},
    }
    recipe = with_settings(parse_recipe(table, "end-to-end"), settings).replace(
        training={"epochs": 2, "warmup_epochs": 1},
        search={"n_trials": trials},
        selection={"finetune_epochs": 1, "rounds": [], "baselines": False},
    )
    spans: list[tuple[float, float]] = []
    score = Scorer.score

    def noted(*args: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        found = score(*args, **options)
        spans.append((begin, time.perf_counter()))
        return found

    Scorer.score = noted  # type: ignore[method-assign]
    begin = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = search(
                recipe, runs=Path(folder), device=device, arrays=(x, y), progress=Progress()
            )
            stages = {cost.stage: round(cost.seconds, 3) for cost in stage_costs(result.study)}
    finally:
        Scorer.score = score  # type: ignore[method-assign]
    whole = time.perf_counter() - begin
    # The first one makes the plain model, or compiles it.
    first, last = spans[1][0], spans[-1][1]
    busy = sum(end - start for start, end in spans[1:])
    return {
        "trials": trials,
        "images": images,
        "seconds": round(whole, 3),
        "stages": stages,
        "first_score_seconds": round(spans[0][1] - spans[0][0], 3),
        "ms_per_trial": round(1e3 * (last - first) / (len(spans) - 1), 3),
        "ms_per_evaluation": round(1e3 * busy / (len(spans) - 1), 3),
        "share_of_evaluation": round(busy / (last - first), 4),
    }


def main() -> None:
    parser = parser_of(__doc__, ["vit-b"], rounds=1)
    parser.add_argument("--n-trials", type=int, default=1050)
    parser.add_argument("--images", type=int, default=IMAGES, help="validation images")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if arguments.small:
        arguments.models, arguments.trials, arguments.images = ["test"], 12, 40
    figures = {}
    for name in arguments.models:
        figures[name] = measured(
            name, arguments.trials, arguments.images, arguments.device, arguments.settings
        )
    table = Table("model", "trials", "s in all", "ms a trial", "ms an evaluation", "its share")
    for name, f in figures.items():
        table.add_row(
            name,
            f"{f['trials']:,}",
            f"{f['seconds']:,.1f}",
            f"{f['ms_per_trial']:.1f}",
            f"{f['ms_per_evaluation']:.1f}",
            f"{f['share_of_evaluation']:.1%}",
        )
    console = Console(width=100)
    console.print(table)
    for name, f in figures.items():
        parts = ", ".join(f"{stage} {seconds:,.1f}" for stage, seconds in f["stages"].items())
        console.print(f"{name}, seconds of stages: {parts}")
    write(arguments.out, "end_to_end", torch.device(arguments.device), figures)


if __name__ == "__main__":
    main()
