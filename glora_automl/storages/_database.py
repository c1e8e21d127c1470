"""Open a database of Optuna studies, which other processes may be creating."""

from __future__ import annotations

import logging
import os
import random
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import CreateEnginePlugin, Engine
from sqlalchemy.dialects import plugins
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.util import asbool

from glora_automl._files import sweep, temporary_name
from glora_automl._messages import one_line, redact, shorten
from glora_automl.errors import Stopped
from glora_automl.storages._patience import lost_connection

__all__ = ["open_database"]

_logger = logging.getLogger(__name__)

_BUSY = 10
"""Seconds in which SQLite waits for a lock; no signal is handled meanwhile."""

_CONNECT_TIMEOUT = 15
"""Seconds until a host does not answer; the default of the system is minutes."""

_READ_TIMEOUT = 60
"""Seconds until a server that took a connection does not answer; a lock is waited for 20 s."""

_TIMEOUTS = {
    **dict.fromkeys(("psycopg", "psycopg2"), ("connect_timeout",)),
    # Without these, MySQL's drivers wait for ever, also for the first answer.
    **dict.fromkeys(("pymysql", "mysqldb"), ("connect_timeout", "read_timeout", "write_timeout")),
}
"""Options of each driver that limit its waits."""


def open_database(
    url: str, *, create: bool, write: bool, patience: float, stop: Callable[[], bool] | None
) -> RDBStorage:
    """Open the storage of a database; see :func:`~glora_automl.storages.open_storage`.

    Raises:
        ValueError: If the database does not hold Optuna studies.
        SQLAlchemyError: If it cannot be opened.
        OptunaError: If its tables cannot be created or read.
        Stopped: If ``stop`` asked to stop.
    """
    parsed = sqlalchemy.make_url(url)
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if parsed.get_backend_name() == "sqlite":
        arguments = {"connect_args": {"timeout": _BUSY}}
        parsed = _prepare_file(parsed, create)
        write = write and "uri" not in parsed.query
    elif options := _TIMEOUTS.get(parsed.get_driver_name()):
        arguments["connect_args"] = {
            option: _CONNECT_TIMEOUT if option == "connect_timeout" else _READ_TIMEOUT
            for option in options
        }
    configured = {**arguments, "plugins": [ConnectionSettings.name]} if write else arguments

    def construct() -> RDBStorage:
        _refuse_foreign(parsed, create, arguments)
        location = parsed.render_as_string(hide_password=False)
        return _storage_class()(location, engine_kwargs=dict(configured))

    return _with_others(construct, patience, stop)


class ConnectionSettings(CreateEnginePlugin):
    """Settings of each connection, for an engine that Optuna creates.

    A worker can be suspended in a transaction. Without these limits, the other workers would wait
    for its locks for ever.
    """

    name = "glora_automl"

    def update_url(self, url: sqlalchemy.URL) -> sqlalchemy.URL:
        """See :class:`sqlalchemy.CreateEnginePlugin`."""
        return url

    def engine_created(self, engine: Engine) -> None:
        """See :class:`sqlalchemy.CreateEnginePlugin`."""
        statements = _STATEMENTS.get(engine.dialect.name, ())

        def configure(connection: Any, record: object) -> None:
            with closing(connection.cursor()) as cursor:
                for statement in statements:
                    cursor.execute(statement)
                if engine.dialect.name in ("mysql", "mariadb"):
                    with suppress(Exception):  # MySQL has no such limit
                        cursor.execute(_IDLE)
            connection.commit()  # PostgreSQL would take the settings back with the transaction

        sqlalchemy.event.listen(engine, "connect", configure)


_STATEMENTS = {
    "sqlite": ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL"),
    "postgresql": (
        "SET lock_timeout = '20s'",
        "SET idle_in_transaction_session_timeout = '30s'",
    ),
    "mysql": ("SET SESSION innodb_lock_wait_timeout = 20",),
    "mariadb": ("SET SESSION innodb_lock_wait_timeout = 20",),
}

_IDLE = "SET SESSION idle_transaction_timeout = 30"
"""For MariaDB."""

plugins.register(ConnectionSettings.name, __name__, ConnectionSettings.__name__)


_SQLITE_OPTIONS = {
    "cached_statements",
    "check_same_thread",
    "detect_types",
    "isolation_level",
    "timeout",
    "uri",
}
"""Options that a URL of SQLite may have; with ``uri`` also those of SQLite itself."""


def _prepare_file(url: sqlalchemy.URL, create: bool) -> sqlalchemy.URL:
    """Create the file of an SQLite database, if it is missing; return the URL to open.

    SQLite would create files beside a database with a write-ahead log, even to read it.
    """
    is_uri = asbool(url.query.get("uri", False))
    unknown = sorted(set(url.query) - _SQLITE_OPTIONS)
    if unknown and not is_uri:  # SQLAlchemy would ignore it with a warning
        raise ValueError(f"SQLite has no option {unknown[0]!r}")
    # Raises before anything is written.
    name = url.get_dialect()().create_connect_args(url)[0][0]
    if is_uri and not name.startswith("file:"):  # SQLite would take the options as its name
        raise ValueError("with the option uri, the path must begin with file:")
    parts = urllib.parse.urlsplit(name) if is_uri else None
    text = urllib.parse.unquote(parts.path) if parts is not None else url.database
    mode = urllib.parse.parse_qs(parts.query).get("mode", [""])[-1] if parts is not None else ""
    if text in (None, "", ":memory:") or mode == "memory":
        raise ValueError("a database in memory ends with its first connection; name a file")
    path = Path(str(text))
    if not path.exists():
        if not create or mode in ("ro", "rw"):
            raise ValueError("no such file")
        if not path.parent.is_dir():
            raise ValueError(f"no folder {str(path.parent)!r}")
        _create_file(path)
    if is_uri:  # the user has chosen how to open it
        return url
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return url
    log = path.with_name(f"{path.name}-wal")
    with path.open("rb") as file:
        has_log = file.read(20)[18:19] == b"\x02"
    # A worker of another user has a log that is not empty.
    closed = has_log and not (log.exists() and log.stat().st_size)
    how = {"immutable": "1"} if closed else {"mode": "ro"}
    name = f"file:{urllib.parse.quote(str(path.absolute()))}"
    return url.set(database=name, query={**url.query, **how, "uri": "true"})


def _create_file(path: Path) -> None:
    """Create an SQLite database with Optuna's tables, unless another process does at once.

    Optuna creates one table after the other. Another process would see a part of them, and would
    have to wait if the first one is suspended. So the whole file appears at once.
    """
    template = RDBStorage("sqlite://")
    with closing(template.engine.raw_connection()) as connection:
        content = connection.driver_connection.serialize()  # type: ignore[union-attr]
    template.engine.dispose()
    sweep(path.parent)
    temporary = temporary_name(path)
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link does not replace the file of another process. Without links,
        # Optuna creates the tables.
        with suppress(OSError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_foreign(url: sqlalchemy.URL, create: bool, arguments: dict[str, Any]) -> None:
    """Refuse a database without Optuna's tables, as Optuna would add them to any database."""
    engine = sqlalchemy.create_engine(url, **arguments)
    try:
        with _any_driver_error():
            engine.connect().close()
        tables = set(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if not tables and not create:
        raise ValueError("the database is empty")
    # Some of Optuna's tables alone: another process is creating them.
    if tables and "version_info" not in tables and (foreign := tables - _optuna_tables()):
        raise ValueError(f"not an Optuna database, its first table is {min(foreign)!r}")


@contextmanager
def _any_driver_error() -> Iterator[None]:
    """Turn what a driver raises beside its own errors into a ``ValueError``.

    Options of a URL reach the driver as they are. One that it does not know, or a value of another
    type, may raise any exception.
    """
    try:
        yield
    except (SQLAlchemyError, OSError):
        raise
    except Exception as error:
        raise ValueError(f"its driver refuses the URL ({error})") from error


def _optuna_tables() -> set[str]:
    storage = RDBStorage("sqlite://")
    try:
        return set(sqlalchemy.inspect(storage.engine).get_table_names())
    finally:
        storage.engine.dispose()


_ATTEMPTS = 20
"""Attempts to create tables together with other processes."""


def _with_others(
    construct: Callable[[], RDBStorage], patience: float, stop: Callable[[], bool] | None
) -> RDBStorage:
    """Construct the storage, which creates missing tables, while other processes do the same.

    A scheduler may start a worker before its database, so a server that is not there yet is waited
    for. A wrong password or a missing database is an error at once: waiting cannot cure it.

    Optuna checks for a table and creates it in two steps. Of several workers that start on an empty
    database, all but one may fail; they find the tables at the next attempt. A worker that is
    suspended while it creates them holds a lock, at most until its transaction is ended.
    """
    end = time.monotonic() + patience
    attempts = 0
    told: set[str] = set()
    while True:
        try:
            return construct()
        except (SQLAlchemyError, OptunaError, AssertionError) as error:
            cause = error.__cause__ if isinstance(error, StorageInternalError) else error
            reason = str(getattr(cause, "orig", None) or cause)
            text = reason.lower()
            locked = any(sign in text for sign in _LOCKED)
            absent = lost_connection(error) and any(sign in text for sign in _ABSENT)
            created = isinstance(cause, IntegrityError | AssertionError)  # the row of the version
            created = created or any(sign in text for sign in _CREATED)
            attempts += not (locked or absent)
            left = end - time.monotonic()
            if not (created or locked or absent) or attempts >= _ATTEMPTS or left <= 0:
                raise
        wait = "Waiting for another process that creates the tables of the database."
        if absent:
            why = shorten(one_line(ValueError(redact(reason))), 120)
            wait = f"The database does not answer ({why}). Retrying for {patience:.0f} s."
        if (locked or absent) and wait not in told:
            told.add(wait)
            _logger.warning("%s", wait)
        if stop is not None and stop():
            raise Stopped("The database does not answer, or another process creates its tables.")
        # A process may connect several times a second, but a server that starts has other work.
        time.sleep(min(left, random.uniform(0.5, 1.0) if absent else random.uniform(0.05, 0.3)))


_CREATED = (
    "already exists",
    "duplicate",
    "no such table",
)
_LOCKED = ("locked", "lock timeout", "lock wait timeout", "deadlock", "due to idle-in-transaction")

_ABSENT = (
    # Network and names, as the system, libpq, psycopg and MySQL's drivers say it.
    "connection refused",
    "no such file or directory",  # the socket of a server on this machine
    "no route to host",
    "network is unreachable",
    "host is down",
    "timed out",
    "timeout",
    "connection reset",
    "could not translate host name",
    "failed to resolve host",
    "name or service not known",
    "name resolution",
    "can't connect",
    "unknown mysql server host",
    # A server that begins, ends or is full.
    "starting up",
    "shutting down",
    "shutdown in progress",
    "recovery mode",
    "not yet accepting",
    "too many c",  # clients of PostgreSQL, connections of MySQL
    "remaining connection slots",
    # A proxy without its server; or the server has ended the transaction of this process, which was
    # suspended.
    "closed the connection",
    "terminating connection",
    "lost connection",
    "gone away",
)
"""Signs in an error that a later connection may be answered."""


def _storage_class() -> type[RDBStorage]:
    try:
        from glora_automl.storages import _fast

        if (reason := _fast.unsupported()) is None:
            return _fast.FastRDBStorage
    except (ImportError, AttributeError) as error:
        reason = str(error)
    _logger.warning("Using the slower storage of Optuna %s: %s.", optuna.__version__, reason)
    return RDBStorage
