"""Opening an Optuna storage by URL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from glora_automl.errors import StorageError

__all__ = ["default_url", "hold_writes", "open_storage", "storage_errors"]


_logger = logging.getLogger(__name__)


def default_url(runs: Path) -> str:
    """The SQLite database of a runs folder.

    Example:
        >>> default_url(Path("runs"))
        'sqlite:///runs/studies.db'
    """
    return f"sqlite:///{(runs / 'studies.db').as_posix()}"


def open_storage(url: str, *, create: bool = True) -> RDBStorage:
    """Open a database for Optuna studies, creating its tables if it is empty.

    It is a ``FastRDBStorage`` where the installed Optuna allows that, else Optuna's own.
    SQLite is opened with a write-ahead log, ``synchronous = NORMAL`` and a minute of patience
    with other writers; other databases check a pooled connection before its use. ``optuna`` and
    ``optuna-dashboard`` open the same URL.

    Args:
        url: An SQLAlchemy URL.
        create: Whether a SQLite file that is not there is created.

    Raises:
        StorageError: If it cannot be opened or holds something else than Optuna studies.
    """
    try:
        parsed = sqlalchemy.make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        arguments: dict[str, Any] = {"pool_pre_ping": True}
        if sqlite:
            arguments = {"connect_args": {"timeout": 60}}
        _refuse_foreign(parsed, create)
        storage = _storage_class()(url, engine_kwargs=arguments)
        if sqlite and create:
            sqlalchemy.event.listen(storage.engine, "connect", _configure_sqlite)
            # The connection of the constructor came before the listener.
            storage.engine.dispose()
            with storage.engine.connect():
                pass
    except (SQLAlchemyError, OptunaError, ImportError, RuntimeError, ValueError) as error:
        raise StorageError(
            f"The storage must be the URL of a database that Optuna can write, {_shown(url)!r} "
            f"cannot be opened: {_reason(error)}"
        ) from error
    return storage


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
    except (SQLAlchemyError, OptunaError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise StorageError(
            f"The storage must stay reachable and writable, it failed: {_reason(cause or error)}; "
            "run the same command again to go on."
        ) from error


def _shown(url: str) -> str:
    """The URL without its password."""
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except (SQLAlchemyError, ValueError):
        return url


def _reason(error: BaseException) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _refuse_foreign(url: sqlalchemy.URL, create: bool) -> None:
    """Optuna would add its tables to any database; a mistyped URL must not get them."""
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("a database in memory is gone with its first connection; name a file")
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        if not create:
            raise ValueError("there is no such file")
        if not Path(url.database).parent.is_dir():
            raise ValueError(f"there is no folder {str(Path(url.database).parent)!r}")
        return
    engine = sqlalchemy.create_engine(url)
    try:
        tables = sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if tables and "version_info" not in tables:
        raise ValueError(f"it is no Optuna database, its first table is {sorted(tables)[0]!r}")


def _configure_sqlite(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
