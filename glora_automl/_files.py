"""Atomic writes, folders and file locks."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from glora_automl.errors import StorageError

__all__ = ["Timeout", "file_lock", "make_folder", "remove_torn", "write_atomic"]


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
