"""What the kept results say: one sentence per file, and the figures that the pages show."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

__all__ = ["FOLDER", "headline", "mismatches", "results_table"]

FOLDER = Path(__file__).parent / "results"

Document = dict[str, Any]
Cells = dict[str, list[float]]


def _methods(document: Document) -> tuple[str, Document]:
    ((budget, figures),) = document["figures"].items()
    return budget, figures["views"]["all tasks"]


def _quality(document: Document) -> str:
    budget, view = _methods(document)
    # LoRA does not fit each budget; a linear probe does.
    rival = next(n for n in ("LoRA at equal cost", "linear probe") if n in view["methods"])
    over = view["methods"][rival]["over_pairs"]
    n_tasks, n_pairs = len(view["tasks"]), view["n_pairs"]
    tasks = view["tasks"][0] if n_tasks == 1 else f"{n_tasks} tasks"
    gain, half = 100 * over["difference"], 100 * over["interval"]
    return (
        f"{tasks}, budget {budget}, {n_pairs} runs: searched minus {rival} "
        f"{gain:+.1f} ± {half:.1f} points"
    )


def _rivals(document: Document) -> str:
    parts = []
    for name, found in document["figures"].items():
        if not name.startswith("searched") and found["difference"] is not None:
            half = found["interval"]  # None of one pair
            interval = "" if half is None else f" ± {100 * half:.1f}"
            parts.append(f"{name} {100 * found['difference']:+.1f}{interval}")
    tasks = list(dict.fromkeys(pair["task"] for pair in document["pairs"]))
    where = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
    return f"{where}: search of the same cost minus {', '.join(parts)} points"


def _mean(runs: list[Document], key: str) -> float:
    return 100 * fmean(run["selected"][key] for run in runs)


def _searches(document: Document) -> str:
    runs = document["runs"]
    tests = {name: _mean(found, "test") for name, found in runs.items() if name != "rejection"}
    shown = ", ".join(f"{name} {tests[name]:.1f}" for name in ("largest components", "evolution"))
    refused = sum(run["infeasible"] for run in runs["rejection"])
    rejected = f"rejection sampling met the budget with 0 of {refused} candidates"
    return f"test accuracy in %: {shown}; {rejected}"


def _portfolio(document: Document) -> str:
    lists = document["figures"]["lists"]
    return (
        f"accuracy of what validation chooses: {100 * lists['1']['same tasks']:.1f} % for the "
        f"recipe alone, {100 * lists['3']['same tasks']:.1f} % with two more settings"
    )


def _samplers(document: Document) -> str:
    return (
        f"{len({score['sampler'] for score in document['scores']})} samplers on "
        f"{document['parameters']} parameters"
    )


def _evaluation(document: Document) -> str:
    parts = [f"{model} {found['merged']['ratio']:.2f}" for model, found in _models(document)]
    return f"time of a merged model over the plain one: {', '.join(parts)}"


def _training(document: Document) -> str:
    parts = [f"{model} {found['supernet']['ratio']:.2f}" for model, found in _models(document)]
    return f"time of a supernet step over that of the frozen limit: {', '.join(parts)}"


def _models(document: Document) -> Iterator[tuple[str, Document]]:
    yield from document["figures"].items()


def _workers(document: Document) -> str:
    most = [row for row in document["rows"] if row["workers"] == 4]
    parts = [f"{row['database']} {row['of_linear']:.2f}" for row in most]
    return f"speed of 4 workers over 4 times one: {', '.join(parts)}"


def _storage(document: Document) -> str:
    rows = [row for row in document["rows"] if row["size"] == 10_000]
    by = {(row["database"], row["storage"]): row["median_ms"] for row in rows}
    parts = [
        f"{database} {by[database, 'ours']:.0f} against {by[database, 'stock']:.0f}"
        for database in dict.fromkeys(name for name, _ in by)
        if {(database, "ours"), (database, "stock")} <= set(by)
    ]
    return f"ms per trial after 10,000 trials, against Optuna's storage: {', '.join(parts)}"


def _faults(document: Document) -> str:
    storages = document["storages"].values()
    complete, target = (sum(s[key] for s in storages) for key in ("complete", "target"))
    return (
        f"{document['faults']:,} faults on {len(storages)} storages: {complete:,} of {target:,} "
        f"trials, {sum(s['tracebacks'] for s in storages)} tracebacks"
    )


def _bad_inputs(document: Document) -> str:
    rows = document["rows"]
    bad = ("accepted wrongly", "no line", "traceback", "hang", "memory")
    faults = sum(row[key] for row in rows for key in bad)
    return f"{sum(row['inputs'] for row in rows):,} inputs to {len(rows)} readers: {faults} faults"


def _dashboard(document: Document) -> str:
    parts = [f"{row['server']} {row['first_s']:.1f}" for row in document["rows"]]
    return f"seconds to the first page of 1,000 trials: {', '.join(parts)}"


def _data(document: Document) -> str:
    parts = [
        f"{'kept' if row['kept'] else 'streamed'} {row['peak_bytes'] / 1e6:.0f} MB and "
        f"{row['n_images'] / row['later_pass_seconds']:.0f} images per second"
        for row in document["rows"]
    ]
    return "; ".join(parts)


def _backbones(document: Document) -> str:
    adapted = [row for row in document["rows"] if row["fraction"] > 0]
    return f"{len(adapted)} of {len(document['rows'])} families have adaptable layers"


def _export(document: Document) -> str:
    parts = [f"{row['model']} {row['merged_over_backbone'][0]:.2f}" for row in document["rows"]]
    return f"time of the merged model over the backbone's: {', '.join(parts)}"


_HEADLINES: dict[str, Callable[[Document], str]] = {
    "quality": _quality,
    "rivals": _rivals,
    "searches": _searches,
    "portfolio": _portfolio,
    "samplers": _samplers,
    "evaluation": _evaluation,
    "training": _training,
    "workers": _workers,
    "storage": _storage,
    "faults": _faults,
    "bad-inputs": _bad_inputs,
    "bad_inputs": _bad_inputs,
    "dashboard": _dashboard,
    "data": _data,
    "backbones": _backbones,
    "export": _export,
}


def headline(path: Path) -> str:
    """Return what a file of results says, in one sentence; the machine if it has no headline."""
    document = json.loads(path.read_text(encoding="utf-8"))
    name = document.get("benchmark") or path.stem
    if name in _HEADLINES:
        return _HEADLINES[name](document)
    return f"measured on {document.get('machine', 'an unknown machine')}"


def results_table() -> str:
    """Return the table of all kept results, as ``benchmarks/README.md`` has it."""
    rows = [f"| `{path.name}` | {headline(path)} |" for path in sorted(FOLDER.glob("*.json"))]
    return "\n".join(["| results | headline |", "| --- | --- |", *rows])


ALIASES = {
    "LoRA r = 2 in attention": "LoRA, highest rank",
    "LoRA r = 2": "LoRA, highest rank",
    "GLoRA with vectors alone": "GLoRA",
    "SSF": "SSF-like",
    "CIFAR-10": "cifar10",
    "Caltech101": "caltech101",
    "notMNIST": "notmnist",
    "Omniglot": "omniglot",
    "photos (pacs)": "pacs",
    "sketches (pacs)": "pacs_sketch",
    "blood cells": "bccd_cells",
    "sign language": "sign_digits",
    "aerial scenes": "rsscn7",
    "eth80, elevation": "eth80_elevation",
    "evolution (default)": "evolution",
    "truncation with the largest components, no trials": "largest components",
    "learning rate 0.01": "lr 1e-2",
    "learning rate 0.001": "lr 1e-3",
    "mirrored images": "hflip",
    "random resized crops": "crop",
    "crops and mirrored images": "crop, hflip",
    "no mixup and CutMix": "no mixing",
    "mixup without CutMix": "mixup alone",
}
"""Names of the pages for rows, and those of the results."""


def _quality_cells(document: Document) -> Cells:
    ((_, figures),) = document["figures"].items()
    view = figures["views"]["all tasks"]
    if len(view["tasks"]) > 1:
        means = figures["tasks"]
        usual = ("linear probe", "BitFit", "LoRA, highest rank", "LoRA at equal cost", "searched")
        columns = [name for name in usual if name in view["methods"]]
        return {task: [100 * means[task][name] for name in columns] for task in means}
    cells = {}
    for name, found in view["methods"].items():
        gain = found["over_pairs"]
        cells[name] = [found["n_params"], found["cost"], 100 * found["test"]]
        if name != "searched":
            cells[name] += [100 * gain["difference"], 100 * gain["interval"]]
    return cells


def _rivals_cells(document: Document) -> Cells:
    tests = {(pair["task"], pair["method"]): 100 * pair["test"] for pair in document["pairs"]}
    peft, one = ("PEFT LoRA", "PEFT EVA"), "searched 1x"
    order = ("LoRA 1x", *peft, one, "TPE over LoRA 3x", "searched 3x", "LoRA 3x")
    columns = [name for name in order if name in document["figures"]]
    return {task: [tests[task, name] for name in columns] for task, _ in tests}


def _searches_cells(document: Document) -> Cells:
    keys = ("inherited", "trained", "test")
    runs = {name: runs for name, runs in document["runs"].items() if name != "rejection"}
    return {name: [_mean(found, key) for key in keys] for name, found in runs.items()}


def _portfolio_cells(document: Document) -> Cells:
    tasks = document["figures"]["tasks"].values()
    names = next(iter(tasks))
    return {n: [100 * task[n] for task in tasks if n in task] for n in names}


_CELLS: dict[str, Callable[[Document], Cells]] = {
    "quality": _quality_cells,
    "rivals": _rivals_cells,
    "searches": _searches_cells,
    "portfolio": _portfolio_cells,
}


def mismatches(page: str) -> tuple[int, list[str]]:
    """Compare the tables of a page with the results that the command below each table wrote.

    Args:
        page: A page in Markdown.

    Returns:
        The number of compared rows, and a line per row with another figure.
    """
    n_rows, wrong = 0, []
    before = 0
    for block in re.finditer(r"^```text\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL):
        chunk, before = page[before : block.start()], block.end()
        named = re.search(r"results/([\w-]+\.json)", block[1])
        if named is None:
            continue
        document = json.loads((FOLDER / named[1]).read_text(encoding="utf-8"))
        if document.get("benchmark") not in _CELLS:
            continue
        cells = _CELLS[document["benchmark"]](document)
        for line in re.findall(r"^\| .*$", chunk, flags=re.MULTILINE):
            label, *shown = (cell.strip(" *`") for cell in line.strip("|").split("|"))
            expected = cells.get(ALIASES.get(label, label))
            if expected is None:
                continue
            n_rows += 1
            texts = re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?", " ".join(shown))
            found = [float(text.replace(",", "")) for text in texts]
            places = [len(text.partition(".")[2]) for text in texts]
            same = len(found) == len(expected) and all(
                abs(a - b) <= 0.501 * 10.0**-n
                for a, b, n in zip(found, expected, places, strict=True)
            )
            if not same:
                figures = ", ".join(f"{value:.2f}" for value in expected)
                wrong.append(f"{named[1]}: {label}: {line} must have {figures}")
    return n_rows, wrong
