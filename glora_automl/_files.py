"""Atomic writes, folders and file locks."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from glora_automl.errors import StorageError

__all__ = [
    "Timeout",
    "file_lock",
    "make_folder",
    "open_file",
    "read_file",
    "remove_torn",
    "write_atomic",
]

MAX_BYTES = 1 << 30
"""Largest file that is read as a whole; the largest image that Pillow decodes is smaller."""


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file beside ``path``, then rename it to ``path``.

    A reader sees the whole file or none. A crash leaves at most a hidden temporary file.

    Args:
        path: The file. Its folder is created.
        write: Writes the content to the path that it gets.

    Raises:
        StorageError: If the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"A file must be writable, got {str(path)!r}: {error.strerror or error}. Free disk "
            "space or choose another folder."
        ) from None
    finally:
        # The file is missing after the rename, and after a failed creation.
        with contextlib.suppress(OSError):
            temporary.unlink()


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; a pipe or device would block, or never end.

    Raises:
        OSError: If the file cannot be read or is no regular file.
    """
    try:
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115
    except ValueError as error:  # a path with a null character or a lone surrogate
        raise OSError(None, str(error)) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(None, "it is no regular file")
    return file


def read_file(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: The file.
        max_bytes: Largest size that is read.

    Raises:
        OSError: If the file cannot be read, is no regular file or is too large.
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > max_bytes:
            raise OSError(None, f"it is larger than {max_bytes:,} bytes")
        return file.read()


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def make_folder(folder: Path, argument: str = "runs") -> None:
    """Create a folder and its parents unless they exist.

    Args:
        folder: The folder.
        argument: Name of the argument that chooses the folder, for the message.

    Raises:
        StorageError: If the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"`{argument}` must be writable, got {str(folder)!r}: {error.strerror}. Choose another "
            f"`{argument}`."
        ) from None


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock between the processes of this machine.

    The kernel releases the lock when its process ends.

    Args:
        path: File of the lock, in an existing folder.
        wait: Whether to wait for the lock.

    Raises:
        Timeout: If another process holds the lock and ``wait`` is false.
        StorageError: If the file system refuses the lock.
    """
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        raise StorageError(
            f"`runs` must be writable and support file locks, got {str(path.parent)!r}: {error}. "
            "Choose another `runs`."
        ) from None
    try:
        yield
    finally:
        lock.release()


def remove_torn(folder: Path, name: str = "*") -> None:
    """Remove the temporary files that killed calls of :func:`write_atomic` left.

    Args:
        folder: Folder of the files.
        name: Pattern of names that no process is writing.
    """
    for torn in folder.glob(f".{name}.{'[0-9a-f]' * 8}.tmp"):
        torn.unlink(missing_ok=True)
