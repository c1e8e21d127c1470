"""Atomic creation of an export's folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glora_automl._files import make_folder, temporary_name
from glora_automl.errors import ExportError, StorageError
from glora_automl.export._record import RECORD

__all__ = ["atomic_folder", "check_free"]


def check_free(path: Path, force: bool, *, argument: str = "out") -> None:
    """Refuse a path that is taken.

    Args:
        path: The path.
        force: Whether an existing export is replaced.
        argument: Name of the caller's argument, for messages.

    Raises:
        ExportError: If the path exists, unless it is an export and ``force`` is set.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise ExportError(
            f"`{argument}` must be a new folder, got {str(path)!r}, which exists. Choose another "
            f"`{argument}`, or set `force` to replace an export."
        )
    # Other folders of the user must survive a mistyped path.
    if path.is_symlink() or not path.is_dir() or not (path / RECORD).is_file():
        raise ExportError(
            f"`{argument}` must be a new folder, or an export with `force`, got {str(path)!r}. "
            f"Choose another `{argument}`."
        )


@contextmanager
def atomic_folder(path: Path, *, force: bool = False, argument: str = "out") -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``path`` at the end of the block.

    If the block raises, the temporary folder is removed and an existing export stays.

    Args:
        path: Path of the folder.
        force: Whether an existing export is replaced.
        argument: Name of the caller's argument, for messages.

    Raises:
        ExportError: As :func:`check_free` does.
        StorageError: If the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_folder(folder / "out") as out:
        ...     _ = (out / "a.txt").write_text("a")
        >>> [file.name for file in folder.glob("*/*")]
        ['a.txt']
    """
    check_free(path, force, argument=argument)
    path = path.absolute()
    make_folder(path.parent, argument)
    temporary: Path | None = None
    try:
        temporary = temporary_name(path)
        new, old = temporary / "new", temporary / "old"
        new.mkdir(parents=True)
        yield new
        for file in new.rglob("*"):  # safetensors creates files that only their owner can read
            if file.is_file():
                file.chmod(new.stat().st_mode & 0o666)
        check_free(path, force, argument=argument)  # another process may have written it meanwhile
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    except OSError as error:
        raise StorageError(
            f"`{argument}` must be writable, got {str(path)!r}: {error.strerror or error}. Free "
            f"disk space or choose another `{argument}`."
        ) from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                shutil.rmtree(temporary)
