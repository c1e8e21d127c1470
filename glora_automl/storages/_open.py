"""Opening an Optuna storage by its location."""

from __future__ import annotations

import logging
import random
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

from glora_automl.errors import StorageError
from glora_automl.storages._journal import open_journal
from glora_automl.storages._patience import PatientStorage

__all__ = [
    "GRACE",
    "beat",
    "default_url",
    "hold_writes",
    "last_trouble",
    "open_storage",
    "quiet_optuna",
    "set_heartbeat",
    "shown_location",
    "storage_errors",
]


_logger = logging.getLogger(__name__)


def default_url(runs: Path) -> str:
    """The SQLite database of a runs folder.

    Example:
        >>> default_url(Path("runs"))
        'sqlite:///runs/studies.db'
    """
    return f"sqlite:///{(runs / 'studies.db').as_posix()}"


def open_storage(
    location: str, *, create: bool = True, write: bool = True, patience: float = 300.0
) -> BaseStorage:
    """Open a storage of Optuna studies, creating it if it is empty.

    A database is opened with ``FastRDBStorage`` where the installed Optuna allows that, else with
    Optuna's own class, behind :class:`PatientStorage`. SQLite has a write-ahead log,
    ``synchronous = NORMAL`` and a minute of patience with other writers; other databases check a
    pooled connection before its use. ``optuna`` and ``optuna-dashboard`` open the same location.

    Args:
        location: An SQLAlchemy URL, or the path of a journal file that ends in ``.log`` or
            ``.journal``.
        create: Whether a file that is not there is created.
        write: Whether it will be written to; who only reads leaves SQLite's settings alone.
        patience: Seconds to wait for a database that was open and does not answer any more.

    Raises:
        StorageError: If it cannot be opened or holds something else than Optuna studies.
    """
    try:
        if "://" in location:
            return PatientStorage(_open_database(location, create, write), patience)
        _check_journal(Path(location), create)
        return open_journal(location, write=write)
    except (SQLAlchemyError, OptunaError, ImportError, RuntimeError, ValueError, OSError) as error:
        raise StorageError(
            "The storage must be the URL of a database or the path of a journal file that Optuna "
            f"can write, {shown_location(location)!r} cannot be opened: {_reason(error)}; choose "
            "another with --storage."
        ) from error


def _check_journal(path: Path, create: bool) -> None:
    if not path.exists():
        if path.suffix not in (".log", ".journal"):
            raise ValueError("it is no URL, and journal files end in .log or .journal")
        if not create:
            raise ValueError("there is no such file")
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {str(path.parent)!r}")


def _open_database(url: str, create: bool, write: bool) -> RDBStorage:
    parsed = sqlalchemy.make_url(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if sqlite:
        arguments = {"connect_args": {"timeout": 60}}
    elif parsed.get_driver_name() in _CONNECT_TIMEOUT:
        # The system's own time-out for a host that is not there is minutes.
        arguments["connect_args"] = {"connect_timeout": 15}
    _refuse_foreign(parsed, create, arguments)
    storage = _create_tables(url, arguments)
    if sqlite and write:
        sqlalchemy.event.listen(storage.engine, "connect", _configure_sqlite)
        # The connection of the constructor came before the listener.
        storage.engine.dispose()
        with storage.engine.connect():
            pass
    return storage


_CONNECT_TIMEOUT = {"psycopg", "psycopg2", "pymysql", "mysqldb"}
_ATTEMPTS = 20


def _create_tables(url: str, arguments: dict[str, Any]) -> RDBStorage:
    """Construct the storage, which makes Optuna's tables if they are not there.

    Optuna looks for a table and makes it in two steps, so of workers that start together on an
    empty database all but one fail; they find the tables when they look again.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _storage_class()(url, engine_kwargs=arguments)
        except (SQLAlchemyError, OptunaError, AssertionError) as error:
            if attempt == _ATTEMPTS - 1 or not _made_by_another(error):
                raise
        time.sleep(random.uniform(0.05, 0.3))
    raise AssertionError("not reached")


def _made_by_another(error: BaseException) -> bool:
    """Whether making the tables failed because another worker was making them."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, IntegrityError | AssertionError):
        return True  # the row that tells the version is there, or not yet
    text = str(cause).lower()
    return any(sign in text for sign in ("already exists", "duplicate", "no such table", "locked"))


def set_heartbeat(storage: BaseStorage, seconds: float) -> bool:
    """Let Optuna judge trials by their heartbeats: stale is what was silent for three of them.

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
    """When a storage could not be written last, by the monotonic clock, as far as it tells."""
    backend = getattr(storage, "_backend", None)
    found = (getattr(place, "last_trouble", float("-inf")) for place in (storage, backend))
    return max(found)


def beat(storage: BaseStorage, trial_id: int, *, first: bool = False) -> bool:
    """Record a heartbeat of a trial.

    Args:
        storage: Where the trial is.
        trial_id: Its id.
        first: Whether the trial has just been created; ``FastRDBStorage`` has then recorded it.

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
"""Heartbeats after which a silent trial counts as dead."""


def _storage_class() -> type[RDBStorage]:
    try:
        from glora_automl.storages import _fast

        if (reason := _fast.unsupported()) is None:
            return _fast.FastRDBStorage
    except (ImportError, AttributeError) as error:
        reason = str(error)
    _logger.warning(
        "Optuna %s is used with its own storage, which is slower: %s.", optuna.__version__, reason
    )
    return RDBStorage


def hold_writes(storage: BaseStorage) -> AbstractContextManager[None]:
    """A block in which a trial's parameters and attributes are written in one transaction.

    Only where the storage can do that (``FastRDBStorage.hold``); nothing changes elsewhere.
    """
    hold: Callable[[], AbstractContextManager[None]] = getattr(storage, "hold", nullcontext)
    return hold()


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what a database raises in the middle of work into one line.

    Raises:
        StorageError: For whatever the database raised.
    """
    try:
        yield
    except KeyError as error:
        if "Record does not exist" not in str(error):
            raise
        raise StorageError(
            "The study must stay in its storage while it is worked on, but it was deleted; start "
            "it again with glora search."
        ) from error
    except (SQLAlchemyError, OptunaError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise StorageError(
            f"The storage must stay reachable and writable, it failed: {_reason(cause or error)}; "
            "run the same command again to go on."
        ) from error


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Let Optuna log no more than warnings: its lines for a trial hold all its parameters."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def shown_location(url: str) -> str:
    """A location without its password, for people to read.

    Example:
        >>> shown_location("postgresql://me:secret@host/studies")
        'postgresql://me:***@host/studies'
    """
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except (SQLAlchemyError, ValueError):
        return url


def _reason(error: BaseException) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _refuse_foreign(url: sqlalchemy.URL, create: bool, arguments: dict[str, Any]) -> None:
    """Optuna would add its tables to any database; a mistyped URL must not get them."""
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("a database in memory is gone with its first connection; name a file")
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        if not create:
            raise ValueError("there is no such file")
        if not Path(url.database).parent.is_dir():
            raise ValueError(f"there is no folder {str(Path(url.database).parent)!r}")
        return
    engine = sqlalchemy.create_engine(url, **arguments)
    try:
        tables = sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if not tables and not create:
        raise ValueError("the database is empty")
    if tables and "version_info" not in tables:
        raise ValueError(f"it is no Optuna database, its first table is {sorted(tables)[0]!r}")


def _configure_sqlite(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
