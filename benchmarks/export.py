"""What an adapter takes on disk, and what it costs at inference.

For a model of each family, random weights and a random architecture of the search space `default`
at a budget of 1%, with a head for 10 classes. What timm and PEFT cannot carry is left out of the
space: C and E of layers without bias.

Sizes: the full weights (the timm export), the PEFT export, the adapter file, and the least that
float32 needs for the trained numbers. Speed: the forward pass of the backbone, of the merged
model, and of the adapter while it is attached, on one thread, in CPU time, so that what else the
machine does counts for less. In each round the three run one after the other, another one first
each time; told are the medians over the rounds, and the median of the rounds' quotients with its
95% bootstrap interval. Parameters and multiply-adds are counted, too.

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
SHARE = 0.01
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
    """A random architecture close to the budget that timm and PEFT can carry."""
    shapes = linear_shapes(model, example=example)
    carried = {n: s._replace(takes_bias=s.takes_bias and s.bias) for n, s in shapes.items()}
    heads = {id(p) for head in classifiers(model) for p in head.parameters()}
    count = sum(p.numel() for p in model.parameters() if id(p) not in heads)
    space = SearchSpace(load_search_space("default"), carried)
    region = FeasibleRegion(space, round(SHARE * count))
    rng = np.random.default_rng(0)
    return space.architecture(region.repair(region.draw_uniform(rng), rng))


def adapt(model: nn.Module, settings: BackboneSettings, architecture: Architecture) -> Adapter:
    """An adapter with random numbers in it; the model is used up."""
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


def sizes(model: nn.Module, adapter: Adapter, folder: Path) -> dict[str, int]:
    """Bytes of the files of weights."""
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
        "least": 4 * sum(tensor.numel() for tensor in adapter.tensors.values()),
    }


@torch.inference_mode()
def work(model: nn.Module, images: torch.Tensor) -> dict[str, int]:
    """Parameters and multiply-adds of a forward pass."""
    with FlopCounterMode(display=False) as counter:
        model(images)
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": count, "multiply_adds": counter.get_total_flops() // 2}


@torch.inference_mode()
def race(models: dict[str, nn.Module], images: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each model's forward pass in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model(images)
    names = list(models)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            begin = time.process_time()
            models[name](images)
            seconds[name].append(time.process_time() - begin)
    return seconds


def quotient(seconds: list[float], of: list[float]) -> list[float]:
    """Median of the rounds' quotients, and its 95% bootstrap interval."""
    ratios = np.array(seconds) / np.array(of)
    draws = np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), (0.025, 0.975))
    return [float(np.median(ratios)), float(low), float(high)]


def measure(name: str, kwargs: dict[str, Any], batch: int, rounds: int) -> dict[str, Any]:
    """Sizes and speed of one model."""
    with seeded(0):
        model = timm.create_model(name, pretrained=False, num_classes=CLASSES, **kwargs).eval()
    settings = BackboneSettings(model=name, kwargs=kwargs)
    size = input_format(model, settings).size
    images = torch.randn(batch, *size, generator=torch.Generator().manual_seed(0))
    architecture = draw(model, images[:1])
    adapter = adapt(copy.deepcopy(model), settings, architecture)
    with tempfile.TemporaryDirectory() as folder:
        bytes_ = sizes(model, adapter, Path(folder))
    merged = attach_adapter(copy.deepcopy(model), adapter).model
    merge(merged)
    attached = attach_adapter(copy.deepcopy(model), adapter).model
    same = work(model, images[:1]) == work(merged, images[:1])
    seconds = race({"backbone": model, "merged": merged, "attached": attached}, images, rounds)
    return {
        "model": name,
        "adapter_parameters": adapter.record.n_params,
        "bytes": bytes_,
        **work(model, images[:1]),
        "merged_does_the_same_work": same,
        "batch": batch,
        "median_cpu_ms": {key: 1000 * float(np.median(times)) for key, times in seconds.items()},
        "merged_of_backbone": quotient(seconds["merged"], seconds["backbone"]),
        "attached_of_backbone": quotient(seconds["attached"], seconds["backbone"]),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print both tables."""
    console = Console(width=140)
    table = Table("model", "adapter parameters", "full", "PEFT", "adapter", "least", title="Bytes")
    for row in rows:
        numbers = (row["adapter_parameters"], *row["bytes"].values())
        table.add_row(row["model"], *(f"{number:,}" for number in numbers))
    console.print(table)
    columns = ("model", "backbone CPU ms", "merged", "attached", "merged / backbone")
    table = Table(*columns, "attached / backbone", "same work", title="Forward pass")
    for row in rows:
        times = (f"{ms:.1f}" for ms in row["median_cpu_ms"].values())
        quotients = (row["merged_of_backbone"], row["attached_of_backbone"])
        told = (f"{mid:.3f} ({low:.3f}–{high:.3f})" for mid, low, high in quotients)
        table.add_row(row["model"], *times, *told, str(row["merged_does_the_same_work"]))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="rounds of forward passes")
    parser.add_argument("--batch", type=int, default=2, help="images a forward pass")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("--small", action="store_true", help="seconds: tiny models, 3 rounds")
    arguments = parser.parse_args()
    models, rounds, batch = MODELS, arguments.rounds, arguments.batch
    if arguments.small:
        models, rounds, batch = SMALL, 3, 2
    torch.set_num_threads(1)
    rows = []
    for name, kwargs in models.items():
        print(name, file=sys.stderr, flush=True)
        rows.append(measure(name, kwargs, batch, rounds))
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
