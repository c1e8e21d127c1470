"""Open an Optuna storage by its location."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from glora_automl._messages import hide, redact, shorten
from glora_automl.errors import StorageError
from glora_automl.storages._database import open_database
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


def default_url(runs: Path) -> str:
    """Return the URL of the SQLite database of a runs folder.

    Example:
        >>> default_url(Path("runs"))
        'sqlite:///runs/studies.db'
    """
    return f"sqlite:///{(runs / 'studies.db').as_posix()}"


def open_storage(
    location: str,
    *,
    create: bool = True,
    write: bool = True,
    patience: float = 300.0,
    stop: Callable[[], bool] | None = None,
) -> BaseStorage:
    """Open a storage of Optuna studies.

    A database is opened with ``FastRDBStorage`` if it supports the installed Optuna, else with
    Optuna's own class, behind :class:`PatientStorage`. SQLite uses a write-ahead log,
    ``synchronous = NORMAL`` and a time-out of 10 s for locks. Other databases test a pooled
    connection before its use, and end transactions of suspended workers after 30 s. ``optuna`` and
    ``optuna-dashboard`` can open the same location.

    Args:
        location: An SQLAlchemy URL, or the path of a journal file that ends in ``.log`` or
            ``.journal``.
        create: Whether to create a missing file or the tables of an empty database.
        write: Whether the storage will be written; otherwise its settings stay unchanged. A file
            that this user cannot write is opened to be read.
        patience: Seconds to wait for a database that does not answer.
        stop: Returns whether to stop waiting.

    Raises:
        StorageError: If the location cannot be opened or does not hold Optuna studies.
        Stopped: If ``stop`` asked to stop.
    """
    hide(location)
    try:
        if "://" in location:
            database = open_database(
                location, create=create, write=write, patience=patience, stop=stop
            )
            storage = PatientStorage(database, patience)
            storage.stop = stop
            return storage
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
    elif not path.is_file():
        raise ValueError("it is no regular file")  # a pipe would never answer


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
            "A study and its trials must stay in the storage while a worker uses them, but they "
            "were deleted or replaced by an older backup. Repeat the call."
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
