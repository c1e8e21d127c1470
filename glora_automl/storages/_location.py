"""How a study records the place of its artifact store, so that both can be moved together."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

__all__ = ["full_location", "portable_location"]


def portable_location(location: str, storage: BaseStorage) -> str:
    """Return how a study of a storage records its artifact store.

    Args:
        location: An absolute path without symbolic links, or a URL.
        storage: The storage of the study.

    Returns:
        The path relative to the folder of an SQLite or journal file if the store is in that folder;
        otherwise the location.

    Example:
        >>> import tempfile
        >>> from glora_automl.storages import open_storage
        >>> runs = Path(tempfile.mkdtemp()).resolve()
        >>> storage = open_storage(f"{runs}/studies.log")
        >>> portable_location(f"{runs}/artifacts", storage)
        'artifacts'
        >>> portable_location("s3://bucket/glora", storage)
        's3://bucket/glora'
    """
    folder, path = _folder(storage), Path(location)
    if folder is None or "://" in location or not path.is_relative_to(folder):
        return location
    return path.relative_to(folder).as_posix()


def full_location(recorded: str, storage: BaseStorage) -> str:
    """Return the place of an artifact store that :func:`portable_location` recorded.

    Args:
        recorded: What the study recorded.
        storage: The storage that the study is in now. Without a file of its own, as after
            ``optuna.copy_study`` to a server, a relative path stays relative.
    """
    folder = _folder(storage)
    return recorded if folder is None or "://" in recorded else str((folder / recorded).resolve())


def _folder(storage: BaseStorage) -> Path | None:
    """Return the folder of a storage's file; None for a server and for memory."""
    backend = getattr(storage, "_backend", storage)
    if isinstance(backend, JournalFileBackend):
        return Path(backend._file_path).resolve().parent
    if not isinstance(backend, RDBStorage) or backend.engine.dialect.name != "sqlite":
        return None
    name = backend.engine.url.database or ":memory:"
    if name.startswith("file:"):  # with the option uri
        name = urllib.parse.unquote(urllib.parse.urlsplit(name).path)
    return None if name == ":memory:" else Path(name).resolve().parent
