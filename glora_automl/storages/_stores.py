"""Artifact stores of Optuna: a folder whose files appear whole, and S3."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import BinaryIO, Protocol

from optuna.artifacts import Boto3ArtifactStore, FileSystemArtifactStore

from glora_automl._extras import require
from glora_automl._files import write_atomic
from glora_automl.errors import StorageError

__all__ = ["FolderStore", "Store", "open_s3", "reason_of"]


class Store(Protocol):
    """Optuna's protocol of an artifact store."""

    def open_reader(self, artifact_id: str) -> BinaryIO: ...

    def write(self, artifact_id: str, content_body: BinaryIO) -> None: ...

    def remove(self, artifact_id: str) -> None: ...


class PrefixedStore:
    """An artifact store under a prefix, for ``s3://bucket/prefix``."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    def open_reader(self, artifact_id: str) -> BinaryIO:
        return self._store.open_reader(self._prefix + artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._store.write(self._prefix + artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        self._store.remove(self._prefix + artifact_id)


class FolderStore(FileSystemArtifactStore):
    """Optuna's folder of artifacts, whose files appear whole.

    A process that is killed in Optuna's own store leaves a part of a file for ever.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        def copy(file: Path) -> None:
            with file.open("wb") as out:
                shutil.copyfileobj(content_body, out)

        write_atomic(self._folder / artifact_id, copy)


def reason_of(error: BaseException) -> str:
    """Return the first line of an error of a file system or a cloud client."""
    text = getattr(error, "strerror", None) or str(error)
    lines = str(text).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def open_s3(location: str) -> Store:
    """Open ``s3://bucket/prefix``.

    Raises:
        StorageError: If boto3 is missing, or the bucket cannot be reached.
    """
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    boto3 = require("boto3", "s3", StorageError, f"`artifacts` = {location!r}")
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = boto3.client("s3")
        client.head_bucket(Bucket=bucket)  # fails here, not after ten attempts at the first file
    except (BotoCoreError, ClientError, ValueError) as error:
        raise StorageError(
            f"`artifacts` must be an accessible bucket, got {location!r}: {reason_of(error)}. "
            "Check bucket and credentials, or choose another `artifacts`."
        ) from error
    # Optuna logs each failed attempt with its traceback, and the last error is raised anyway.
    logging.getLogger("optuna.artifacts._backoff").setLevel(logging.CRITICAL)
    store: Store = Boto3ArtifactStore(bucket, client)
    return PrefixedStore(store, prefix) if prefix else store
