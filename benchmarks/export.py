"""Disk size of adapters and their cost at inference.

For one model per family: random weights, a random architecture of the search space `default` at a
budget of 1%, and a head for 10 classes. C and E of layers without bias are left out, because timm
and PEFT cannot express them.

Sizes: full weights (the timm export), PEFT export, adapter file, and the trained parameters in
float32 as the lower bound. Speed: forward pass of the backbone, the merged model and the attached
adapter, on one thread. CPU time reduces the effect of other load. The three models alternate in
each round, starting with another one. The tables show medians over the rounds, and the median
ratio per round with its 95% bootstrap interval. Parameters and multiply-adds are counted, too.

    python benchmarks/export.py --rounds 15 --out benchmarks/results/export.json
    python benchmarks/export.py --small
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from _document import MACHINE, command_line, write_document
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from glora_automl.adapters import classifiers, linear_shapes, merge
from glora_automl.architecture import Architecture
from glora_automl.backbones import BackboneSettings, input_format
from glora_automl.budget import FeasibleRegion
from glora_automl.export import Adapter, Backbone, Preprocessing, save_adapter
from glora_automl.export._adapter import attach_adapter
from glora_automl.export._peft import write_peft
from glora_automl.export._timm import check_timm, write_timm
from glora_automl.search_space import SearchSpace, load_search_space
from glora_automl.supernet import Supernet
from glora_automl.training import seeded

CLASSES = 10
BUDGET_FRACTION = 0.01
MODELS: dict[str, dict[str, Any]] = {
    "vit_base_patch16_224": {},
    "swin_tiny_patch4_window7_224": {},
    "convnext_tiny": {},
}
SMALL: dict[str, dict[str, Any]] = {
    "test_vit": {},
    "swin_tiny_patch4_window7_224": {
        "img_size": 32,
        "window_size": 4,
        "embed_dim": 16,
        "depths": (1, 1, 2, 1),
        "num_heads": (1, 2, 2, 2),
    },
    "test_convnext": {},
}


def draw(model: nn.Module, example: torch.Tensor) -> Architecture:
    """Return a random architecture near the budget that timm and PEFT can express."""
    shapes = linear_shapes(model, example=example)
    expressible = {n: s._replace(takes_bias=s.takes_bias and s.bias) for n, s in shapes.items()}
    heads = {id(p) for head in classifiers(model) for p in head.parameters()}
    count = sum(p.numel() for p in model.parameters() if id(p) not in heads)
    space = SearchSpace(load_search_space("default"), expressible)
    region = FeasibleRegion(space, round(BUDGET_FRACTION * count))
    rng = np.random.default_rng(0)
    return space.architecture(region.repair(region.draw_uniform(rng), rng))


def adapt(model: nn.Module, settings: BackboneSettings, architecture: Architecture) -> Adapter:
    """Return an adapter with random parameters; the model is changed in place."""
    choices = {
        name: {tensor: (choice,) for tensor, choice in of_layer._asdict().items()}
        for name, of_layer in architecture.items()
    }
    supernet = Supernet(model, choices)
    supernet.activate(architecture)
    with seeded(0), torch.no_grad():
        for parameter in supernet.trainable().values():
            parameter.copy_(torch.randn(parameter.shape) * 0.01)
    return Adapter.of(
        supernet,
        Backbone.of(settings, model),
        tuple(map(str, range(CLASSES))),
        Preprocessing.of(input_format(model, settings)),
    )


def measure_sizes(model: nn.Module, adapter: Adapter, folder: Path) -> dict[str, int]:
    """Return the bytes of the weight files."""
    check_timm(model, adapter.architecture)
    for name in ("timm", "peft"):
        (folder / name).mkdir()
    supernet = attach_adapter(copy.deepcopy(model), adapter)
    with merge(supernet.model) as merged:
        write_timm(folder / "timm", merged, adapter.record)
    write_peft(folder / "peft", copy.deepcopy(model), adapter)
    save_adapter(folder / "adapter", adapter)
    return {
        "full": (folder / "timm/model.safetensors").stat().st_size,
        "peft": (folder / "peft/adapter_model.safetensors").stat().st_size,
        "adapter": (folder / "adapter/adapter.safetensors").stat().st_size,
        "lower_bound": 4 * sum(tensor.numel() for tensor in adapter.tensors.values()),
    }


@torch.inference_mode()
def count_work(model: nn.Module, images: torch.Tensor) -> dict[str, int]:
    """Return parameters and multiply-adds of a forward pass."""
    with FlopCounterMode(display=False) as counter:
        model(images)
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"n_params": count, "multiply_adds": counter.get_total_flops() // 2}


@torch.inference_mode()
def time_forward(
    models: dict[str, nn.Module], images: torch.Tensor, n_rounds: int
) -> dict[str, list[float]]:
    """Return the CPU seconds of each model's forward pass in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model(images)
    names = list(models)
    for number in range(n_rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            begin = time.process_time()
            models[name](images)
            seconds[name].append(time.process_time() - begin)
    return seconds


def median_ratio(seconds: list[float], reference: list[float]) -> list[float]:
    """Return the median ratio per round and its 95% bootstrap interval."""
    ratios = np.array(seconds) / np.array(reference)
    draws = np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), (0.025, 0.975))
    return [float(np.median(ratios)), float(low), float(high)]


def measure(name: str, kwargs: dict[str, Any], batch_size: int, n_rounds: int) -> dict[str, Any]:
    """Measure sizes and speed of one model."""
    with seeded(0):
        model = timm.create_model(name, pretrained=False, num_classes=CLASSES, **kwargs).eval()
    settings = BackboneSettings(model=name, kwargs=kwargs)
    size = input_format(model, settings).size
    images = torch.randn(batch_size, *size, generator=torch.Generator().manual_seed(0))
    architecture = draw(model, images[:1])
    adapter = adapt(copy.deepcopy(model), settings, architecture)
    with tempfile.TemporaryDirectory() as folder:
        sizes = measure_sizes(model, adapter, Path(folder))
    merged = attach_adapter(copy.deepcopy(model), adapter).model
    merge(merged)
    attached = attach_adapter(copy.deepcopy(model), adapter).model
    equal_work = count_work(model, images[:1]) == count_work(merged, images[:1])
    seconds = time_forward(
        {"backbone": model, "merged": merged, "attached": attached}, images, n_rounds
    )
    return {
        "model": name,
        "adapter_n_params": adapter.record.n_params,
        "bytes": sizes,
        **count_work(model, images[:1]),
        "equal_work": equal_work,
        "batch_size": batch_size,
        "median_cpu_ms": {key: 1000 * float(np.median(times)) for key, times in seconds.items()},
        "merged_over_backbone": median_ratio(seconds["merged"], seconds["backbone"]),
        "attached_over_backbone": median_ratio(seconds["attached"], seconds["backbone"]),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the tables of sizes and speed."""
    console = Console(width=140)
    table = Table(
        "model", "adapter parameters", "full", "PEFT", "adapter", "lower bound", title="Bytes"
    )
    for row in rows:
        numbers = (row["adapter_n_params"], *row["bytes"].values())
        table.add_row(row["model"], *(f"{number:,}" for number in numbers))
    console.print(table)
    columns = ("model", "backbone CPU ms", "merged", "attached", "merged / backbone")
    table = Table(*columns, "attached / backbone", "equal work", title="Forward pass")
    for row in rows:
        times = (f"{ms:.1f}" for ms in row["median_cpu_ms"].values())
        ratios = (row["merged_over_backbone"], row["attached_over_backbone"])
        cells = (f"{mid:.3f} ({low:.3f}–{high:.3f})" for mid, low, high in ratios)
        table.add_row(row["model"], *times, *cells, str(row["equal_work"]))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="rounds of forward passes")
    parser.add_argument("--batch-size", type=int, default=2, help="images per forward pass")
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    parser.add_argument("--small", action="store_true", help="seconds: tiny models, 3 rounds")
    arguments = parser.parse_args()
    models, n_rounds, batch_size = MODELS, arguments.rounds, arguments.batch_size
    if arguments.small:
        models, n_rounds, batch_size = SMALL, 3, 2
    torch.set_num_threads(1)
    rows = []
    for name, kwargs in models.items():
        print(name, file=sys.stderr, flush=True)
        rows.append(measure(name, kwargs, batch_size, n_rounds))
    show(rows)
    if arguments.out is not None:
        document = {
            "benchmark": "export",
            "command": command_line(),
            "machine": {**MACHINE, "threads": torch.get_num_threads()},
            "torch": torch.__version__,
            "timm": timm.__version__,
            "rows": rows,
        }
        write_document(arguments.out, document)


if __name__ == "__main__":
    main()
