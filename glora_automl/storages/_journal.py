"""Journal files that remain readable after a worker is killed during a write."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

__all__ = ["WholeLineBackend", "open_journal"]

_logger = logging.getLogger(__name__)


class WholeLineBackend(JournalFileBackend):
    """A journal file whose incomplete last line is removed before each append.

    A worker that is killed during an append leaves an incomplete line. Optuna skips it at the end
    of the file, but the next append would extend it to an unreadable line.

    Args:
        path: The file; created if it is missing.

    Attributes:
        last_trouble: Monotonic time of the last failure to write.
    """

    last_trouble = float("-inf")

    def __init__(self, path: str) -> None:
        # On Windows only administrators may create symbolic links.
        lock = JournalFileOpenLock(path) if os.name == "nt" else JournalFileSymlinkLock(path)
        super().__init__(path, lock)
        self.path = path
        self.lock = lock

    def remove_incomplete_line(self) -> None:
        """Remove an incomplete last line and log a warning."""
        with self._locked():
            self._truncate()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        begin = time.monotonic()
        self.lock.acquire()
        if time.monotonic() - begin > 1:
            # A killed worker held the lock, so no worker could write until it expired.
            self.last_trouble = time.monotonic()
        try:
            yield
        finally:
            self.lock.release()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See :class:`optuna.storages.journal.JournalFileBackend`."""
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        with _errors(), self._locked():
            self._truncate()
            with open(self.path, "ab") as file:
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """See :class:`optuna.storages.journal.JournalFileBackend`."""
        with _errors():
            yield from super().read_logs(log_number_from)

    def _truncate(self) -> None:
        """Truncate the locked file after its last newline."""
        with open(self.path, "rb+") as file:
            size = keep = file.seek(0, os.SEEK_END)
            while keep > 0:
                step = min(keep, 1 << 16)
                file.seek(keep - step)
                newline = file.read(step).rfind(b"\n")
                if newline >= 0:
                    keep += newline + 1 - step
                    break
                keep -= step
            if keep == size:
                return
            file.truncate(keep)
        _logger.warning(
            "The journal %r ended with an incomplete line; removed %d bytes of an interrupted "
            "write.",
            self.path,
            size - keep,
        )


@contextmanager
def _errors() -> Iterator[None]:
    """Raise errors of the file as Optuna's storage error."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: the lock expired
        raise StorageInternalError(f"The journal failed: {error}") from error


_BEGIN = b'{"op_code":'
"""First bytes of each line of a journal."""


def open_journal(path: str, *, write: bool = True) -> JournalStorage:
    """Open a journal file.

    Args:
        path: The file; created if it is missing.
        write: Whether to remove an incomplete last line.

    Raises:
        OSError: If the file cannot be read or written.
        ValueError: If the file is not a journal.

    Example:
        >>> import optuna, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     study = optuna.create_study(storage=open_journal(f"{folder}/studies.log"))
        ...     study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
        ...     len(study.trials)
        2
    """
    # Before any change, as the file may not be a journal.
    if os.path.exists(path):
        with open(path, "rb") as file:
            first = file.readline(1 << 16)
        if not (first.startswith(_BEGIN) or _BEGIN.startswith(first)):
            raise ValueError("the file is not a journal of Optuna")
    backend = WholeLineBackend(path)
    if write:
        backend.remove_incomplete_line()
    return JournalStorage(backend)
