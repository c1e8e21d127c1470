"""Time of each stage of a whole search, and utilisation of the device.

The benchmark runs a search like a user's, in its own folder with SQLite: supernet, trials,
selection and one test. Images and weights are random. The published schedule is 1,050 trials of
200 validation images on ViT-B (arXiv 2306.07967). Training is short here, as `training.py`
measures its steps.

The tables show the seconds of each stage, milliseconds per trial and per evaluation, and the
fraction of the search's wall time with a running evaluation. The rest is sampler, storage and
progress. On a GPU that rest overlaps with the next evaluation.

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
from _speed import MODELS, parser_of, spans_of, write
from rich.console import Console
from rich.table import Table

from glora_automl.adapters import MergedModel
from glora_automl.commands import search
from glora_automl.pipeline import Workspace
from glora_automl.recipes import override_recipe
from glora_automl.recipes._overrides import with_settings
from glora_automl.recipes._recipe import parse_recipe
from glora_automl.samplers import EvolutionSampler
from glora_automl.study import stage_costs
from glora_automl.supernet import Scorer

IMAGES = 200
N_TRAIN = 64


def measure(
    name: str,
    n_trials: int,
    n_images: int,
    device: str,
    settings: list[str],
    storage: str | None = None,
) -> dict[str, Any]:
    """Run a search and measure its times.

    Args:
        name: Name of the model.
        n_trials: Number of trials.
        n_images: Validation images.
        device: Device of the search.
        settings: Changes of the recipe, as `key=value`.
        storage: URL of a database; by default SQLite.
    """
    timm_name, keywords = MODELS[name]
    size = keywords.get("img_size", 224)
    rng = np.random.default_rng(0)
    count = N_TRAIN + n_images + 40
    x = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    y = np.arange(count) % 10
    table = override_recipe("own").model_dump(mode="json")
    table |= {
        "name": f"end-to-end-{name}",
        "task": {"source": "arrays", "validation_size": n_images, "test_size": 40},
        "backbone": {"model": timm_name, "kwargs": keywords},
    }
    recipe = with_settings(parse_recipe(table, "end-to-end"), settings).replace(
        training={"epochs": 2, "warmup_epochs": 1},
        search={"n_trials": n_trials},
        selection={"baselines": False},
        tune={"n_trials": 0},
    )
    begin = time.perf_counter()
    with (
        spans_of(Scorer, "score") as scores,
        spans_of(MergedModel, "write") as merges,
        spans_of(EvolutionSampler, "sample_relative", "sample_independent") as draws,
        tempfile.TemporaryDirectory() as folder,
    ):
        workspace = Workspace(runs=Path(folder), device=device, storage=storage)
        result = search(recipe, arrays=(x, y), workspace=workspace)
        stages = {cost.stage: round(cost.seconds, 3) for cost in stage_costs(result.study)}
    seconds = time.perf_counter() - begin
    # The first score prepares and compiles the merged model.
    spans = scores.spans
    first, last, count = spans[1][0], spans[-1][1], len(spans) - 1
    busy = scores.within(first, last)
    parts = {"merge": merges, "sampler": draws}
    return {
        "n_trials": n_trials,
        "n_images": n_images,
        "seconds": round(seconds, 3),
        "stages": stages,
        "first_score_seconds": round(spans[0][1] - spans[0][0], 3),
        "ms_per_trial": round(1e3 * (last - first) / count, 3),
        "ms_per_evaluation": round(1e3 * busy / count, 3),
        **{f"ms_per_{n}": round(1e3 * s.within(first, last) / count, 3) for n, s in parts.items()},
        "evaluation_fraction": round(busy / (last - first), 4),
        "period": [first, last],
    }


def main() -> None:
    parser = parser_of(__doc__, ["vit-b"], rounds=1)
    parser.add_argument("--n-trials", type=int, default=1050)
    parser.add_argument("--images", type=int, default=IMAGES, help="validation images")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if arguments.small:
        arguments.models, arguments.n_trials, arguments.images = ["test"], 12, 40
    figures = {}
    for name in arguments.models:
        figures[name] = measure(
            name, arguments.n_trials, arguments.images, arguments.device, arguments.settings
        )
        del figures[name]["period"]
    table = Table("model", "trials", "seconds", "ms per trial", "ms per evaluation", "evaluation")
    for name, f in figures.items():
        table.add_row(
            name,
            f"{f['n_trials']:,}",
            f"{f['seconds']:,.1f}",
            f"{f['ms_per_trial']:.1f}",
            f"{f['ms_per_evaluation']:.1f}",
            f"{f['evaluation_fraction']:.1%}",
        )
    console = Console(width=100)
    console.print(table)
    for name, f in figures.items():
        parts = ", ".join(f"{stage} {seconds:,.1f}" for stage, seconds in f["stages"].items())
        console.print(f"{name}, seconds per stage: {parts}")
    write(arguments.out, "end_to_end", torch.device(arguments.device), figures)


if __name__ == "__main__":
    main()
