"""Progress in Python's ``logging``, with time stamps, as text or JSON lines."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from glora_automl._files import user_path
from glora_automl._messages import printable, redact
from glora_automl.errors import StorageError
from glora_automl.progress._lines import LineProgress

__all__ = ["LogFormat", "LogProgress", "log_to_file"]

LogFormat = Literal["text", "json"]
"""Format of a log file: lines for people, or one JSON object per line."""

_logger = logging.getLogger("glora_automl")
_logger.addHandler(logging.NullHandler())


class LogProgress(LineProgress):
    """Progress in the logger ``glora_automl``, at the level INFO.

    Example:
        >>> logging.getLogger("glora_automl").isEnabledFor(logging.INFO)
        False
        >>> LogProgress().log("Nobody reads this line.")
    """

    def __init__(self) -> None:
        super().__init__(_logger.info)


class _File(logging.FileHandler):
    """A log file that creates its folder; a full disk does not end a study."""

    def _open(self) -> Any:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line, unless the file cannot be opened."""
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave out a line that cannot be written."""


class _Formatter(logging.Formatter):
    """Formats a record as one line without passwords.

    Args:
        kind: The format.
        worker: Name of the worker, for JSON.
    """

    def __init__(self, kind: LogFormat, worker: str | None) -> None:
        super().__init__()
        self._kind = kind
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = printable(redact(record.getMessage()))
        if self._kind == "text":
            return f"{time} {record.levelname} {message}"
        fields = {"time": time, "level": record.levelname, "worker": self._worker}
        fields |= {"logger": record.name, "message": message}
        return json.dumps({k: v for k, v in fields.items() if v is not None}, ensure_ascii=False)


@contextmanager
def log_to_file(path: Path, kind: LogFormat, worker: str | None = None) -> Iterator[None]:
    """Append the log to a file inside the block.

    Args:
        path: The file, which is created with its folder at the first line.
        kind: Its format.
        worker: Name of the worker, for JSON.

    Raises:
        StorageError: If the file cannot be written.
    """
    path = user_path(path, "`log_file`", StorageError)
    found = next(parent for parent in (path, *path.parents) if parent.exists())
    right_kind = found.is_file() if found == path else found.is_dir()
    if not (right_kind and os.access(found, os.W_OK)):
        raise StorageError(
            f"The log file must be writable, got {str(path)!r}. Choose another `log_file`."
        )
    # Opened at the first line, as wrong input of a command leaves no file.
    handler = _File(path, encoding="utf-8", errors="backslashreplace", delay=True)
    handler.setFormatter(_Formatter(kind, worker))
    before = _logger.level
    _logger.addHandler(handler)
    if not _logger.isEnabledFor(logging.INFO):
        _logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(before)
        handler.close()
