"""Open an Optuna storage by its location."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from glora_automl._messages import hide, redact, shorten
from glora_automl.errors import StorageError
from glora_automl.storages._journal import open_journal
from glora_automl.storages._patience import PatientStorage

__all__ = [
    "GRACE",
    "default_url",
    "hold_writes",
    "last_trouble",
    "open_storage",
    "quiet_optuna",
    "record_heartbeat",
    "set_heartbeat",
    "shown_location",
    "storage_errors",
]

_logger = logging.getLogger(__name__)


def default_url(runs: Path) -> str:
    """Return the URL of the SQLite database of a runs folder.

    Example:
        >>> default_url(Path("runs"))
        'sqlite:///runs/studies.db'
    """
    return f"sqlite:///{(runs / 'studies.db').as_posix()}"


def open_storage(
    location: str, *, create: bool = True, write: bool = True, patience: float = 300.0
) -> BaseStorage:
    """Open a storage of Optuna studies.

    A database is opened with ``FastRDBStorage`` if it supports the installed Optuna, else with
    Optuna's own class, behind :class:`PatientStorage`. SQLite uses a write-ahead log,
    ``synchronous = NORMAL`` and a time-out of 60 s for locks. Other databases test a pooled
    connection before its use. ``optuna`` and ``optuna-dashboard`` can open the same location.

    Args:
        location: An SQLAlchemy URL, or the path of a journal file that ends in ``.log`` or
            ``.journal``.
        create: Whether to create a missing file or the tables of an empty database.
        write: Whether the storage will be written; otherwise SQLite's settings stay unchanged.
        patience: Seconds to wait for an opened database that stops answering.

    Raises:
        StorageError: If the location cannot be opened or does not hold Optuna studies.
    """
    hide(location)
    try:
        if "://" in location:
            return PatientStorage(_open_database(location, create, write), patience)
        _check_journal(Path(location), create)
        return open_journal(location, write=write)
    except (SQLAlchemyError, OptunaError, ImportError, RuntimeError, ValueError, OSError) as error:
        shown = shown_location(location)
        raise StorageError(
            "`storage` must be the URL of a database or the path of a journal file that can be "
            f"opened, got {shown!r}: {shorten(_reason(error), max(60, 170 - len(shown)))}. Choose "
            "another `storage`."
        ) from None  # the error may show a password


def _check_journal(path: Path, create: bool) -> None:
    if not path.exists():
        if path.suffix not in (".log", ".journal"):
            raise ValueError("journal files end in .log or .journal, URLs have ://")
        if not create:
            raise ValueError("no such file")
        if not path.parent.is_dir():
            raise ValueError(f"no folder {str(path.parent)!r}")


def _open_database(url: str, create: bool, write: bool) -> RDBStorage:
    parsed = sqlalchemy.make_url(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if sqlite:
        arguments = {"connect_args": {"timeout": 60}}
    elif parsed.get_driver_name() in _CONNECT_TIMEOUT:
        # The default of the system for an unreachable host is minutes.
        arguments["connect_args"] = {"connect_timeout": 15}
    _refuse_foreign(parsed, create, arguments)
    storage = _create_tables(url, arguments)
    if sqlite and write:
        sqlalchemy.event.listen(storage.engine, "connect", _configure_sqlite)
        # The constructor opened its connection before the listener was added.
        storage.engine.dispose()
        with storage.engine.connect():
            pass
    return storage


_CONNECT_TIMEOUT = {"psycopg", "psycopg2", "pymysql", "mysqldb"}
_ATTEMPTS = 20


def _create_tables(url: str, arguments: dict[str, Any]) -> RDBStorage:
    """Construct the storage, which creates missing tables.

    Optuna checks for a table and creates it in two steps. Of several workers that start on an empty
    database, all but one may fail; they find the tables at the next attempt.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _storage_class()(url, engine_kwargs=arguments)
        except (SQLAlchemyError, OptunaError, AssertionError) as error:
            if attempt == _ATTEMPTS - 1 or not _created_by_another(error):
                raise
        time.sleep(random.uniform(0.05, 0.3))
    raise AssertionError("not reached")


def _created_by_another(error: BaseException) -> bool:
    """Return whether the tables could not be created because another worker created them."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, IntegrityError | AssertionError):
        return True  # about the row of the schema version
    text = str(cause).lower()
    return any(sign in text for sign in ("already exists", "duplicate", "no such table", "locked"))


def set_heartbeat(storage: BaseStorage, seconds: float) -> bool:
    """Set the heartbeat interval; trials without heartbeat for ``GRACE`` intervals are stale.

    Returns:
        Whether the storage has heartbeats.
    """
    backend = getattr(storage, "_backend", storage)
    if not isinstance(backend, RDBStorage):
        return False
    backend.heartbeat_interval = seconds  # type: ignore[assignment]
    backend.grace_period = GRACE * seconds  # type: ignore[assignment]
    return True


def last_trouble(storage: BaseStorage) -> float:
    """Return the monotonic time of the last failed access to a storage, or minus infinity."""
    backend = getattr(storage, "_backend", None)
    return max(getattr(s, "last_trouble", float("-inf")) for s in (storage, backend))


def record_heartbeat(storage: BaseStorage, trial_id: int, *, first: bool = False) -> bool:
    """Record a heartbeat of a trial.

    Args:
        storage: Storage of the trial.
        trial_id: Id of the trial.
        first: Whether the trial is new. ``FastRDBStorage`` has then recorded its heartbeat.

    Returns:
        Whether the storage has heartbeats.
    """
    backend = getattr(storage, "_backend", storage)
    if not isinstance(backend, RDBStorage):
        return False
    if not (first and hasattr(backend, "hold")):
        recorder: Any = storage
        recorder.record_heartbeat(trial_id)
    return True


GRACE = 3
"""Heartbeat intervals without a heartbeat after which a trial is stale."""


def _storage_class() -> type[RDBStorage]:
    try:
        from glora_automl.storages import _fast

        if (reason := _fast.unsupported()) is None:
            return _fast.FastRDBStorage
    except (ImportError, AttributeError) as error:
        reason = str(error)
    _logger.warning("Using the slower storage of Optuna %s: %s.", optuna.__version__, reason)
    return RDBStorage


def hold_writes(storage: BaseStorage) -> AbstractContextManager[None]:
    """Write the parameters and attributes of a trial in one transaction at the end of a block.

    The block has no effect if the storage has no ``hold``, as ``FastRDBStorage`` has.
    """
    hold: Callable[[], AbstractContextManager[None]] = getattr(storage, "hold", nullcontext)
    return hold()


@contextmanager
def storage_errors() -> Iterator[None]:
    """Raise the errors of a database as errors of this package.

    Raises:
        StorageError: If the storage raises in the block.
    """
    try:
        yield
    except KeyError as error:
        if "Record does not exist" not in str(error):
            raise
        raise StorageError(
            "The study must stay in its storage during the search, but it was deleted. Start the "
            "search again."
        ) from error
    except (json.JSONDecodeError, RecursionError) as error:
        why = "is no JSON" if isinstance(error, ValueError) else "is nested too deeply"
        raise StorageError(
            f"`storage` must hold what Optuna wrote, but a value {why} "
            f"({shorten(str(error), 80)}). Restore a backup, or choose another `storage`."
        ) from None
    except (SQLAlchemyError, OptunaError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise StorageError(
            "`storage` must stay reachable and writable, but it failed: "
            f"{_reason(cause or error)}. Repeat the call to resume."
        ) from error


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Log only warnings of Optuna, whose line per trial holds all parameters.

    The level is one for the whole process. The last block that ends restores it, so blocks of
    several threads may overlap.
    """
    with _quiet.lock:
        if not _quiet.n_blocks:
            _quiet.before = optuna.logging.get_verbosity()
            optuna.logging.set_verbosity(max(_quiet.before, optuna.logging.WARNING))
        _quiet.n_blocks += 1
    try:
        yield
    finally:
        with _quiet.lock:
            _quiet.n_blocks -= 1
            if not _quiet.n_blocks:
                optuna.logging.set_verbosity(_quiet.before)


class _Quiet:
    """Blocks of :func:`quiet_optuna` that are open."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n_blocks = 0
        self.before = 0


_quiet = _Quiet()


def shown_location(url: str) -> str:
    """Return a location without its password.

    Example:
        >>> shown_location("postgresql://me:secret@host/studies")
        'postgresql://me:***@host/studies'
    """
    hide(url)
    return shorten(redact(url), 120)


def _reason(error: BaseException) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _refuse_foreign(url: sqlalchemy.URL, create: bool, arguments: dict[str, Any]) -> None:
    """Refuse a database without Optuna's tables, as Optuna would add them to any database."""
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("a database in memory ends with its first connection; name a file")
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        if not create:
            raise ValueError("no such file")
        if not Path(url.database).parent.is_dir():
            raise ValueError(f"no folder {str(Path(url.database).parent)!r}")
        return
    engine = sqlalchemy.create_engine(url, **arguments)
    try:
        tables = sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if not tables and not create:
        raise ValueError("the database is empty")
    if tables and "version_info" not in tables:
        raise ValueError(f"not an Optuna database, its first table is {sorted(tables)[0]!r}")


def _configure_sqlite(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
