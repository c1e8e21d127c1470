"""Journal files that remain readable after a worker is killed during a write."""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from glora_automl._files import sweep
from glora_automl.storages._journal_lock import LinkLock

__all__ = ["WholeLineBackend", "open_journal"]

_logger = logging.getLogger(__name__)


class WholeLineBackend(JournalFileBackend):
    """A journal file that notices incomplete and lost lines.

    A worker that is killed during an append leaves an incomplete line. Optuna skips it at the end
    of the file, but the next append would extend it to an unreadable line. So it is removed before
    each append.

    Optuna reads a journal with a lost line as if all later trials were others. So each line has a
    checksum of the line before, which Optuna ignores. A worker that was suspended while it held the
    lock may write late, after the lines of others. So the checksum may be that of any earlier line.

    Args:
        path: The file; created if it is missing.

    Attributes:
        last_trouble: Monotonic time of the last failure to write.
    """

    last_trouble = float("-inf")

    def __init__(self, path: str) -> None:
        # On Windows only administrators may create symbolic links.
        lock: Any = JournalFileOpenLock(path) if os.name == "nt" else LinkLock(path)
        super().__init__(path, lock)
        self.path = path
        self.lock = lock
        self._read = _Position()
        self._checksums = {_NONE}

    def remove_incomplete_line(self) -> None:
        """Remove an incomplete last line and log a warning."""
        with self._locked(), open(self.path, "rb+") as file:
            self._truncate(file)

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
        with _errors(), self._locked():
            with open(self.path, "rb+") as file:
                line = self._truncate(file)
            lines = []
            for log in logs:
                log = {**log, CHECKSUM: zlib.crc32(line)}
                line = (json.dumps(log, separators=(",", ":")) + "\n").encode()
                lines.append(line)
            with open(self.path, "ab") as file:
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """See :class:`optuna.storages.journal.JournalFileBackend`."""
        with _errors(), open(self.path, "rb") as file:
            if log_number_from != self._read.number:
                self._read, self._checksums = _Position(), {_NONE}
            for line in self._lines(file):
                log = self._parse(line)
                number, offset = self._read
                # Before the line is applied, which may raise.
                self._read = _Position(number + 1, offset + len(line))
                self._checksums.add(zlib.crc32(line))
                if number >= log_number_from:
                    yield log

    def _parse(self, line: bytes) -> dict[str, Any]:
        """Return the log of the next line.

        Raises:
            ValueError: If a line before it is lost, or one of them is altered.
        """
        try:
            log: dict[str, Any] = json.loads(line)
            before = log.pop(CHECKSUM, _NONE)
        except (ValueError, AttributeError, TypeError):
            log, before = {}, None
        if not isinstance(before, int) or before not in self._checksums:
            number = self._read.number + 1
            raise ValueError(f"a line is lost or altered before line {number}; restore a backup")
        return log

    def _lines(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield the whole lines after those that were read.

        Raises:
            ValueError: If the file is shorter than what was read of it.
        """
        if os.fstat(file.fileno()).st_size < self._read.offset:
            raise ValueError("the file became shorter, as by an older backup")
        file.seek(self._read.offset)
        yield from (line for line in file if line.endswith(b"\n"))

    def _truncate(self, file: BinaryIO) -> bytes:
        """Truncate the locked file after its last newline; return the last line."""
        # Nothing is written into another file, such as a restored backup.
        for line in islice(self._lines(file), 1):
            self._parse(line)
        size, keep, line = _last_line(file)
        if keep < size:
            file.truncate(keep)
            _logger.warning(
                "The journal %r ended with an incomplete line; removed %d bytes of an interrupted "
                "write.",
                self.path,
                size - keep,
            )
        return line


CHECKSUM = "after"
"""Key in a line: the checksum of the line before."""


class _Position(NamedTuple):
    """What was read: number of lines, and their bytes."""

    number: int = 0
    offset: int = 0


_NONE = zlib.crc32(b"")
"""Checksum of a line without a line before it, and of Optuna's own lines."""


def _last_line(file: BinaryIO) -> tuple[int, int, bytes]:
    """Return the size of a file, the size of its whole lines, and the last one of them."""
    size = position = file.seek(0, os.SEEK_END)
    step, tail = 1 << 16, b""
    while position > 0 and tail.count(b"\n") < 2:
        begin = max(0, position - step)
        file.seek(begin)
        tail = file.read(position - begin) + tail
        position, step = begin, 2 * step
    end = tail.rfind(b"\n") + 1
    begin = tail.rfind(b"\n", 0, max(0, end - 1)) + 1
    return size, position + end, tail[begin:end]


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
        write: Whether the journal will be written. An incomplete last line is removed then.

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
        sweep(Path(path).parent)
        backend.remove_incomplete_line()
    try:
        return JournalStorage(backend)
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"[:80]
        raise ValueError(f"a line is no operation of Optuna ({reason})") from error
