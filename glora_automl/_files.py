"""Files that are whole or not there, and their digests."""

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
    """Let ``write`` fill a temporary file beside ``path``, then give it its name.

    A reader sees the whole file or none; a crash leaves at most a hidden temporary file.

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
            f"The file {str(path)!r} cannot be written: {error.strerror or error}; make room or "
            "choose another folder."
        ) from None
    finally:
        # After the rename nothing is there, and what could not be made cannot be removed.
        with contextlib.suppress(OSError):
            temporary.unlink()


def make_folder(folder: Path, option: str = "--runs") -> None:
    """Make a folder and those above it, if they are not there.

    Args:
        folder: The folder.
        option: What chooses another one, for the message.

    Raises:
        StorageError: If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The folder {str(folder)!r} must be writable: {error.strerror}; choose another with "
            f"{option}."
        ) from None


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock between processes of this machine; the kernel frees it when one dies.

    Args:
        path: The lock's file, in a folder that is there.
        wait: Whether to wait for it.

    Raises:
        Timeout: If it is taken and ``wait`` is false.
        StorageError: If the file system does not let it be.
    """
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        raise StorageError(
            f"The folder {str(path.parent)!r} must be writable and know locks: {error}; choose "
            "another with --runs."
        ) from None
    try:
        yield
    finally:
        lock.release()


def remove_torn(folder: Path, name: str = "*") -> None:
    """Remove what killed calls of :func:`write_atomic` left of files that nobody writes now."""
    for torn in folder.glob(f".{name}.{'[0-9a-f]' * 8}.tmp"):
        torn.unlink(missing_ok=True)
