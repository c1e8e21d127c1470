"""Files: checked paths, bounded reads, atomic writes, folders and locks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from glora_automl._messages import short
from glora_automl.errors import GLoRAError, Stopped, StorageError

__all__ = [
    "Timeout",
    "check_output",
    "file_digest",
    "file_lock",
    "make_folder",
    "open_file",
    "read_file",
    "remove_torn",
    "sweep",
    "temporary_name",
    "user_path",
    "write_atomic",
]

MAX_BYTES = 1 << 30
"""Largest file that is read as a whole; the largest image that Pillow decodes is smaller."""

LEFT = 600.0
"""Seconds without a change after which a temporary file is one that a killed process left."""

_NAME = re.compile(r"\w+(\.\w+)*")

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.glora\.tmp", re.DOTALL)


def user_path(value: object, argument: str, error: type[GLoRAError]) -> Path:
    """Return a path that a user wrote, with its ``~`` expanded.

    Args:
        value: The path.
        argument: Name of the argument, for messages.
        error: Class of the exception.

    Raises:
        GLoRAError: As ``error``, if no file system can have such a path, or if this user may not
            look whether it exists.

    Example:
        >>> user_path("images/zoo.npz", "`data`", StorageError).name
        'zoo.npz'
    """
    fault = None
    path = Path()
    try:
        text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
        if not isinstance(text, str):
            fault = "it is no text"
        elif not text:
            fault = "it is empty"
        elif "\0" in text:
            fault = "it has a NUL character"
        else:
            path = Path(os.path.expanduser(text))
            if text[0] == "~" and str(path)[:1] == "~":
                fault = "there is no such user"
            elif len(os.fsencode(path)) >= 4096 or any(
                len(os.fsencode(part)) > 255 for part in path.parts
            ):
                fault = "it is too long"
            else:
                fault = _unreachable(path)
    except UnicodeEncodeError:
        fault = "it is no Unicode text"
    if fault is not None:
        name = argument.strip("`")
        hint = f"Correct `{name}`." if _NAME.fullmatch(name) else "Correct the path."
        raise error(f"{argument} must be a path, got {short(value)}: {fault}. {hint}")
    return path


def _unreachable(path: Path) -> str | None:
    """Return why the system cannot tell whether a path exists; None if it can."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # a folder above that is closed to this user, a loop of links, ...
        return error.strerror or str(error)
    return None


def temporary_name(path: Path) -> Path:
    """Return a hidden name beside a file or folder, which :func:`sweep` knows."""
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.glora.tmp")


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file beside ``path``, then rename it to ``path``.

    A reader sees the whole file or none. A killed process leaves at most a hidden temporary file,
    which a later call in the folder removes. The file has the permissions of the umask.

    Args:
        path: The file. Its folder is created.
        write: Writes the content to the path that it gets.

    Raises:
        StorageError: If the folder cannot be written, the disk is full, or the path is something
            else than a file.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise OSError(errno.EEXIST, "it is no regular file")
        sweep(path.parent)
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        write(temporary)
        temporary.chmod(mode)  # some libraries create files that only their owner can read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"A file must be writable, got {short(str(path), 120)}: {reason}. Free disk "
            "space or choose another folder."
        ) from None
    finally:
        # The file is missing after the rename, and after a failed creation.
        with contextlib.suppress(OSError, ValueError):
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


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, without reading it as a whole.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_output(path: Path, argument: str, error: type[GLoRAError], mark: bytes) -> None:
    """Refuse to write where something is that this package did not write.

    Args:
        path: The file to write.
        argument: Name of the argument that chooses it, for messages.
        error: Class of the exception.
        mark: Bytes that a file of this package has among its first 4,096.

    Raises:
        GLoRAError: As ``error``, if the path is taken.
    """
    try:
        if not os.path.lexists(path):
            return
        if stat.S_ISREG(path.lstat().st_mode):
            with path.open("rb") as file:
                if mark in file.read(4096):
                    return
        fault = "is not one of glora_automl"
    except (OSError, ValueError) as reason:
        fault = f"cannot be read ({getattr(reason, 'strerror', None) or reason})"
    raise error(
        f"`{argument}` must be a new file, got {short(str(path), 120)}, which {fault}. Remove it, "
        f"or choose another `{argument}`."
    )


def make_folder(folder: Path, argument: str = "runs") -> None:
    """Create a folder and its parents unless they exist; remove old temporary files in it.

    Args:
        folder: The folder.
        argument: Name of the argument that chooses the folder, for the message.

    Raises:
        StorageError: If the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"`{argument}` must be writable, got {short(str(folder), 120)}: {reason}. Choose "
            f"another `{argument}`."
        ) from None
    sweep(folder)


@contextlib.contextmanager
def file_lock(
    path: Path,
    *,
    wait: bool = True,
    stop: Callable[[], bool] | None = None,
    log: Callable[[str], object] | None = None,
    holder: str = "which uses the same files",
) -> Iterator[None]:
    """Hold a lock between the processes of this machine.

    The kernel releases the lock when its process ends.

    Args:
        path: File of the lock, in an existing folder.
        wait: Whether to wait for the lock.
        stop: Returns whether to stop waiting.
        log: Called with one line if the lock has to be waited for.
        holder: Describes the other process in that line.

    Raises:
        Timeout: If another process holds the lock and ``wait`` is false.
        Stopped: If ``stop`` asked to stop.
        StorageError: If the file system refuses the lock.
    """
    lock = FileLock(path, timeout=0)
    waits = False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.2 if waits else 0)
        except Timeout:
            if not wait:
                raise
            if stop is not None and stop():
                raise Stopped(f"Another process holds {path.name}.") from None
            if log is not None and not waits:
                log(f"Waiting for another process, {holder} ({str(path)!r}).")
            waits = True
        except (OSError, NotImplementedError) as error:
            raise StorageError(
                f"`runs` must be writable and support file locks, got {str(path.parent)!r}: "
                f"{error}. Choose another `runs`."
            ) from None
    try:
        yield
    finally:
        lock.release()


def remove_torn(folder: Path, *names: str) -> None:
    """Remove the temporary files that killed calls of :func:`write_atomic` left.

    Args:
        folder: Folder of the files.
        names: Patterns of file names that no process is writing, such as by a lock.
    """
    for name in names:
        for torn in folder.glob(f".{name}.{'[0-9a-f]' * 8}.glora.tmp"):
            torn.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove temporary files and folders that killed processes left in a folder.

    Only their age tells: other processes, also of other machines, may be writing theirs.
    """
    with contextlib.suppress(OSError):
        for path in [p for p in folder.iterdir() if _TEMPORARY.fullmatch(p.name)]:
            with contextlib.suppress(OSError):
                is_folder = stat.S_ISDIR(path.lstat().st_mode)
                inside = path.rglob("*") if is_folder else ()
                last = max(part.lstat().st_mtime for part in (path, *inside))
                if abs(time.time() - last) < LEFT:
                    continue
                if is_folder:
                    shutil.rmtree(path)
                else:
                    path.unlink()
