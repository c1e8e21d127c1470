"""Journal files that survive a worker which is killed while it writes."""

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
    """A journal file whose torn last line is cut off before anything is added to it.

    A worker that is killed while it appends leaves half a line. Optuna skips it as long as it is
    the last one; the next append would glue its own line to it, which nobody can read any more.

    Args:
        path: The file; made if it is not there.

    Attributes:
        last_trouble: When it could not be written last, by the monotonic clock.
    """

    last_trouble = float("-inf")

    def __init__(self, path: str) -> None:
        # Windows lets only administrators make symbolic links.
        lock = JournalFileOpenLock(path) if os.name == "nt" else JournalFileSymlinkLock(path)
        super().__init__(path, lock)
        self.path = path
        self.lock = lock

    def cut_torn_line(self) -> None:
        """Cut off a last line that has no end, and say so."""
        with self._locked():
            self._cut()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        begin = time.monotonic()
        self.lock.acquire()
        if time.monotonic() - begin > 1:
            # A worker was killed with the lock, and nobody could write until it was taken away.
            self.last_trouble = time.monotonic()
        try:
            yield
        finally:
            self.lock.release()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See :class:`optuna.storages.journal.JournalFileBackend`."""
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        with _errors(), self._locked():
            self._cut()
            with open(self.path, "ab") as file:
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """See :class:`optuna.storages.journal.JournalFileBackend`."""
        with _errors():
            yield from super().read_logs(log_number_from)

    def _cut(self) -> None:
        """Cut the file back to its last newline; nobody else writes meanwhile."""
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
            "The journal %r ended in the middle of a line: %d bytes that a worker had not finished "
            "writing were cut off.",
            self.path,
            size - keep,
        )


@contextmanager
def _errors() -> Iterator[None]:
    """Let a full disk or a broken line look like the failure of any other storage."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # the last of a lock that was taken away
        raise StorageInternalError(f"The journal failed: {error}") from error


_BEGIN = b'{"op_code":'
"""How each line of a journal begins, and the empty file if it is cut short enough."""


def open_journal(path: str, *, write: bool = True) -> JournalStorage:
    """Open a journal file, cutting off a torn last line if it will be written to.

    Raises:
        OSError: If it cannot be read or written.
        ValueError: If it holds something else than a journal.

    Example:
        >>> import optuna, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     study = optuna.create_study(storage=open_journal(f"{folder}/studies.log"))
        ...     study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
        ...     len(study.trials)
        2
    """
    # Before anything is cut off: it may be a file of something else.
    if os.path.exists(path):
        with open(path, "rb") as file:
            first = file.readline(1 << 16)
        if not (first.startswith(_BEGIN) or _BEGIN.startswith(first)):
            raise ValueError("it is no journal of Optuna")
    backend = WholeLineBackend(path)
    if write:
        backend.cut_torn_line()
    return JournalStorage(backend)
