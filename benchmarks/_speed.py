"""Common parts of the speed benchmarks: models, timing of methods in turn, tables and files."""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from _document import MACHINE, command_line, write_document
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from glora_automl.adapters import linear_shapes
from glora_automl.architecture import Architecture
from glora_automl.budget import FeasibleRegion
from glora_automl.search_space import SearchSpace, load_search_space
from glora_automl.supernet import Supernet
from glora_automl.training import seeded

CLASSES = 10
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": (
        "vit_tiny_patch16_224",
        {"img_size": 8, "patch_size": 2, "embed_dim": 64, "depth": 4, "num_heads": 4},
    ),
    "minivtab": (
        "vit_tiny_patch16_224",
        {
            "img_size": 32,
            "patch_size": 4,
            "embed_dim": 96,
            "depth": 6,
            "num_heads": 3,
            "class_token": False,
            "global_pool": "avg",
        },
    ),
    "vit-s": ("vit_small_patch16_224", {}),
    "vit-b": ("vit_base_patch16_224", {}),
    "vit-l": ("vit_large_patch16_224", {}),
    "swin-t": ("swin_tiny_patch4_window7_224", {}),
    "convnext-t": ("convnext_tiny", {}),
    "test": ("test_vit", {"img_size": 32, "patch_size": 8}),
}


def create(name: str, device: torch.device) -> nn.Module:
    """Create a model with the same random weights in each call."""
    timm_name, keywords = MODELS[name]
    with seeded(0):
        model = timm.create_model(timm_name, num_classes=CLASSES, **keywords)
    return model.eval().to(device)


def images_for(name: str, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return random images in the model's size, and labels."""
    size = MODELS[name][1].get("img_size", 224)
    with seeded(1):
        images = torch.randn(count, 3, size, size)
    return images.to(device), (torch.arange(count) % CLASSES).to(device)


def supernet_of(
    model: nn.Module, images: Tensor, name: str = "default"
) -> tuple[Supernet, SearchSpace]:
    """Create a supernet of a search space with non-zero adapters."""
    shapes = linear_shapes(model, example=images[:1])
    space = SearchSpace(load_search_space(name), shapes)
    supernet = Supernet(model, space.layer_choices())
    with seeded(2), torch.no_grad():
        for parameter in supernet.trainable().values():
            parameter.add_(torch.randn(parameter.shape).to(parameter) * 0.01)
    return supernet, space


def architectures(space: SearchSpace) -> Iterator[Architecture]:
    """Yield the same 20 uniformly drawn architectures in a cycle, which takes no time."""
    rng = np.random.default_rng(0)
    region = FeasibleRegion(space, sys.maxsize)
    return itertools.cycle([space.architecture(region.draw_uniform(rng)) for _ in range(20)])


Timings = dict[str, list[float]]


def in_turn(
    methods: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> Timings:
    """Return the seconds of each method in each round; the first method changes per round.

    On a CPU the time is processor time, which other programs of the machine affect less.
    """
    on_cpu = device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    for method in methods.values():  # warms up allocators, caches and compilers
        method()
    seconds: Timings = {name: [] for name in methods}
    names = list(methods)
    for index in range(rounds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            if not on_cpu:
                torch.accelerator.synchronize(device)
            begin = clock()
            methods[name]()
            if not on_cpu:
                torch.accelerator.synchronize(device)
            seconds[name].append(clock() - begin)
    return seconds


class Spans:
    """Begin and end of each call of some methods, those within another one left out."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float]] = []
        self._depth = threading.local()

    def timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method that notes its calls."""

        @functools.wraps(method)
        def call(*arguments: Any, **keywords: Any) -> Any:
            outer = getattr(self._depth, "value", 0)
            self._depth.value = outer + 1
            begin = time.perf_counter()
            try:
                return method(*arguments, **keywords)
            finally:
                self._depth.value = outer
                if not outer:
                    self.spans.append((begin, time.perf_counter()))

        return call

    def within(self, begin: float, end: float) -> float:
        """Return the seconds of the calls that began in a period."""
        return sum(last - first for first, last in self.spans if begin <= first <= end)


@contextmanager
def spans_of(owner: type, *names: str) -> Iterator[Spans]:
    """Note the calls of a class's methods inside the block."""
    spans, methods = Spans(), {name: getattr(owner, name) for name in names}
    for name, method in methods.items():
        setattr(owner, name, spans.timed(method))
    try:
        yield spans
    finally:
        for name, method in methods.items():
            setattr(owner, name, method)


def peak_memory(method: Callable[[], object], device: torch.device) -> int | None:
    """Return the peak of bytes that a method allocates additionally; None on a CPU."""
    if device.type != "cuda":
        return None
    method()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    method()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def summarize(
    seconds: Timings, base: str, images: int, memory: Mapping[str, int | None]
) -> dict[str, dict[str, Any]]:
    """Return medians, and ratios to the base method in the same round with quartiles."""
    figures = {}
    for name, values in seconds.items():
        ratios = np.array(values) / np.array(seconds[base])
        low, median, high = np.percentile(ratios, [25, 50, 75])
        figures[name] = {
            "images_per_second": round(images / float(np.median(values)), 2),
            "ratio": round(float(median), 4),
            "quartiles": [round(float(low), 4), round(float(high), 4)],
            "memory": memory.get(name),
            "seconds": [round(value, 6) for value in values],
        }
    return figures


def show(title: str, base: str, models: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one table per model."""
    for model, figures in models.items():
        table = Table(
            "method",
            "images/s",
            f"time, {base} = 1 (quartiles)",
            "peak MB",
            title=f"{title}: {model}",
        )
        for name, f in figures.items():
            low, high = f["quartiles"]
            memory = "–" if f["memory"] is None else f"{f['memory'] / 1e6:,.0f}"
            ratio = f"{f['ratio']:.2f} ({low:.2f}–{high:.2f})"
            table.add_row(name, f"{f['images_per_second']:,.1f}", ratio, memory)
        Console(width=100).print(table)


def parser_of(doc: str | None, models: list[str], rounds: int) -> argparse.ArgumentParser:
    """Create a parser with the common options."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=models, metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("--small", action="store_true", help="one tiny model, for a few seconds")
    return parser


def write(path: Path | None, benchmark: str, device: torch.device, figures: Any) -> None:
    """Write the figures as JSON."""
    if path is None:
        return
    write_document(
        path,
        {
            "benchmark": benchmark,
            "command": command_line(),
            "machine": {
                **MACHINE,
                "threads": torch.get_num_threads(),
                "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            },
            "torch": torch.__version__,
            "timm": timm.__version__,
            "figures": figures,
        },
    )
