"""Folders that are whole or not there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glora_automl._files import make_folder
from glora_automl.errors import ExportError, StorageError
from glora_automl.export._record import RECORD

__all__ = ["check_free", "whole_folder"]


def check_free(path: Path, force: bool) -> None:
    """Refuse to write where something is.

    Raises:
        ExportError: If it is there and ``force`` is false, or it is no export.
    """
    if not path.exists() and not path.is_symlink():
        return
    if not force:
        raise ExportError(
            f"The output must not be there yet, {str(path)!r} is; choose another with --out, or "
            "replace it with --force."
        )
    # Not just any folder of the user's is removed.
    if path.is_symlink() or not path.is_dir() or not (path / RECORD).is_file():
        raise ExportError(
            f"An export is all that --force replaces, and {str(path)!r} is none; choose another "
            "with --out."
        )


@contextmanager
def whole_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A folder to fill and to check, which gets its name at the end of the block.

    If the block raises anything, nothing is left of it, and what was there before is still there.

    Args:
        path: The name.
        force: Whether an export of that name is replaced.

    Raises:
        ExportError: See :func:`check_free`.
        StorageError: If it cannot be written.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with whole_folder(folder / "out") as out:
        ...     _ = (out / "a.txt").write_text("a")
        >>> [file.name for file in folder.glob("*/*")]
        ['a.txt']
    """
    check_free(path, force)
    path = path.absolute()
    make_folder(path.parent, option="--out")
    place: Path | None = None
    try:
        place = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        filled, old = place / "new", place / "old"
        filled.mkdir()
        yield filled
        for file in filled.iterdir():  # safetensors writes for the user alone
            file.chmod(filled.stat().st_mode & 0o666)
        check_free(path, force)  # others may have written it meanwhile
        if path.exists():
            path.rename(old)
        try:
            filled.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    except OSError as error:
        raise StorageError(
            f"The folder {str(path)!r} cannot be written: {error.strerror or error}; make room or "
            "choose another with --out."
        ) from None
    finally:
        if place is not None:
            with suppress(OSError):
                shutil.rmtree(place)
