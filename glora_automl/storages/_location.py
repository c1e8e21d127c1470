"""Places of storages and artifact stores: recorded so that both can be moved together."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path

import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.util import asbool

__all__ = ["absolute_url", "full_location", "portable_location"]


def absolute_url(url: str) -> str:
    """Return a URL that other working folders find, too: of SQLite with an absolute path.

    Example:
        >>> absolute_url("sqlite:////data/a.db?timeout=5"), absolute_url("postgresql://host/a")
        ('sqlite:////data/a.db?timeout=5', 'postgresql://host/a')
    """
    if not re.match(r"sqlite[\w+]*:///", url):
        return url
    parsed = sqlalchemy.make_url(url)
    name, scheme, folder = parsed.database or "", "", str(Path.cwd())
    if asbool(parsed.query.get("uri", False)) and name.startswith("file:"):
        name, scheme, folder = name.removeprefix("file:"), "file:", urllib.parse.quote(folder)
    if name in ("", ":memory:") or Path(name).is_absolute():
        return url
    absolute = parsed.set(database=f"{scheme}{Path(folder, name)}")
    return absolute.render_as_string(hide_password=False)


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
