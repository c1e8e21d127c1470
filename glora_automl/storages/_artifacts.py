"""Files of a study that other machines need, in an Optuna artifact store."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

import optuna
from optuna.artifacts import (
    Backoff,
    Boto3ArtifactStore,
    FileSystemArtifactStore,
    upload_artifact,
)
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage

from glora_automl._files import file_lock, make_folder, remove_torn, write_atomic
from glora_automl.errors import CheckpointError, StorageError

__all__ = ["ArtifactReference", "Artifacts", "default_artifacts", "open_artifacts"]


def default_artifacts(runs: Path) -> str:
    """The artifact store of a runs folder.

    Example:
        >>> default_artifacts(Path("runs"))
        'runs/artifacts'
    """
    return (runs / "artifacts").as_posix()


class ArtifactReference(NamedTuple):
    """Where a file is and what it must be.

    Attributes:
        id: Name in the artifact store.
        sha256: Digest of its content.
        size: Bytes.
    """

    id: str
    sha256: str
    size: int


class _Store(Protocol):
    """What Optuna calls an artifact store."""

    def open_reader(self, artifact_id: str) -> BinaryIO: ...

    def write(self, artifact_id: str, content_body: BinaryIO) -> None: ...

    def remove(self, artifact_id: str) -> None: ...


class _Prefixed:
    """A store within a store, for ``s3://bucket/prefix``."""

    def __init__(self, store: _Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    def open_reader(self, artifact_id: str) -> BinaryIO:
        return self._store.open_reader(self._prefix + artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._store.write(self._prefix + artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        self._store.remove(self._prefix + artifact_id)


class _Later:
    """Stands for the storage while Optuna uploads, and keeps what it would have written.

    Optuna writes that there is an artifact before its bytes are there; a worker that is killed in
    between would leave the name of a file that does not exist.
    """

    prefix = "artifacts:"

    def __init__(self) -> None:
        self.key = ""
        self.value: Any = None

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.key, self.value = key, value

    @property
    def artifact_id(self) -> str:
        return self.key.removeprefix(self.prefix)


class Artifacts:
    """An artifact store with a folder of verified downloads.

    Args:
        store: Where the artifacts are.
        remover: The same without retries; ``optuna.artifacts.Backoff`` repeats a removal that
            has succeeded.
        location: How to name it in messages.
        cache: Folder of the downloads, by digest.
        folder: Where the artifacts are files of this machine, which need no download.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> artifacts = open_artifacts(str(folder / "store"), cache=folder / "cache")
        >>> study = optuna.create_study()
        >>> _ = (folder / "a.txt").write_text("hello")
        >>> reference = artifacts.upload(folder / "a.txt", study)
        >>> artifacts.fetch(reference).read_text()
        'hello'
    """

    def __init__(
        self,
        store: _Store,
        remover: _Store,
        location: str,
        cache: Path,
        folder: Path | None = None,
    ) -> None:
        self._store = store
        self._remover = remover
        self.location = location
        self._cache = cache
        self._folder = folder

    @property
    def backend(self) -> Any:
        """The Optuna artifact store behind it, which verifies nothing."""
        return self._store

    def upload(self, path: Path, study: optuna.Study) -> ArtifactReference:
        """Put a file into the store, and list it among the study's artifacts when it is there.

        Raises:
            StorageError: If the store cannot be written.
        """
        later = _Later()
        with self._writing(later):
            artifact_id = upload_artifact(
                artifact_store=self._store,
                file_path=str(path),
                study_or_trial=study,
                storage=cast(BaseStorage, later),
            )
        study._storage.set_study_system_attr(study._study_id, later.key, later.value)
        return ArtifactReference(artifact_id, _digest(path), path.stat().st_size)

    def store(self, path: Path) -> ArtifactReference:
        """Put a file into the store that will be removed again, and list it nowhere.

        Raises:
            StorageError: If the store cannot be written.
        """
        later = _Later()
        later.key = f"{_Later.prefix}{uuid.uuid4()}"
        with self._writing(later), path.open("rb") as file:
            self._store.write(later.artifact_id, file)
        return ArtifactReference(later.artifact_id, _digest(path), path.stat().st_size)

    @contextmanager
    def _writing(self, later: _Later) -> Iterator[None]:
        """Leave nothing half-written if it fails."""
        with self._errors("written"):
            try:
                yield
            except BaseException:
                if later.key:
                    with contextlib.suppress(Exception):
                        self._remover.remove(later.artifact_id)
                raise

    def fetch(self, reference: ArtifactReference) -> Path:
        """The file of a reference, to be read only: verified, and downloaded if it is not here.

        Raises:
            CheckpointError: If it is missing or not what it must be.
            StorageError: If the store cannot be read or the cache not be written.
        """
        if self._folder is not None:
            path = self._folder / Path(reference.id).name
            if not path.is_file():
                raise self._missing(reference)
            self._verify(reference, path)
            return path
        make_folder(self._cache)
        path = self._cache / f"{reference.sha256}{_SUFFIX}"
        # Workers of one machine share the cache: one downloads, the others wait.
        with file_lock(path.with_suffix(".lock")):
            if path.exists() and _digest(path) == reference.sha256:
                return path
            remove_torn(self._cache, path.name)
            write_atomic(path, lambda file: self._download(reference, file))
        return path

    def _download(self, reference: ArtifactReference, file: Path) -> None:
        with self._errors("read"):
            try:
                with self._store.open_reader(reference.id) as reader, file.open("wb") as writer:
                    shutil.copyfileobj(reader, writer)
            except ArtifactNotFound:
                raise self._missing(reference) from None
        self._verify(reference, file)

    def _missing(self, reference: ArtifactReference) -> CheckpointError:
        return CheckpointError(
            f"The artifact {reference.id!r} of the study must be in {self.location!r}, but it is "
            "missing; give the study's artifact store with --artifacts."
        )

    def _verify(self, reference: ArtifactReference, file: Path) -> None:
        with self._errors("read"):
            found = _digest(file)
        if found != reference.sha256:
            raise CheckpointError(
                f"The artifact {reference.id!r} in {self.location!r} must have sha256 "
                f"{reference.sha256[:16]}..., got {found[:16]}...: it was altered or cut short; "
                "restore it, or start another study with --name."
            )

    def forget(self, path: Path) -> None:
        """Remove a download that is not needed any more; a file of the store stays."""
        if self._folder is None:
            path.unlink(missing_ok=True)

    def remove(self, reference: ArtifactReference) -> None:
        """Remove a file that nobody needs any more; what cannot be removed stays."""
        with contextlib.suppress(Exception):
            self._remover.remove(reference.id)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (CheckpointError, StorageError):
            raise
        except Exception as error:  # whatever the cloud's client raises
            raise StorageError(
                f"The artifact store {self.location!r} cannot be {what}: {_reason(error)}; make "
                "room, or choose another with --artifacts."
            ) from error


_SUFFIX = ".artifact"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    lines = str(text).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def open_artifacts(location: str, *, cache: Path, create: bool = True) -> Artifacts:
    """Open an artifact store.

    Args:
        location: A folder, or ``s3://bucket/prefix``.
        cache: Folder for downloads.
        create: Whether a folder that is not there is made.

    Raises:
        StorageError: If it cannot be had.
    """
    if location.startswith("s3://"):
        store = _open_s3(location)
        return Artifacts(Backoff(store), store, location, cache)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", location):
        raise StorageError(
            "The artifact store must be a folder or s3://bucket/prefix, got "
            f"{location!r}; choose another with --artifacts."
        )
    if create:
        make_folder(Path(location), "--artifacts")
    elif not Path(location).is_dir():
        raise StorageError(
            f"The artifact store must be at hand, but there is no folder {location!r} on this "
            "machine; say where it is with --artifacts."
        )
    # Absolute, as the study keeps it and another worker may stand in another folder.
    folder = Path(location).resolve()
    files = FileSystemArtifactStore(folder)
    return Artifacts(files, files, str(folder), cache, folder)


def _open_s3(location: str) -> _Store:
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise StorageError(
            f"The artifact store {location!r} needs boto3; "
            "install it with: pip install 'glora-automl[s3]'"
        ) from None
    try:
        client = boto3.client("s3")
        client.head_bucket(Bucket=bucket)  # at once, not after ten attempts at the first file
    except (BotoCoreError, ClientError, ValueError) as error:
        raise StorageError(
            f"The artifact store {location!r} cannot be opened: {_reason(error)}; check bucket "
            "and credentials, or choose another with --artifacts."
        ) from error
    # It logs each failed attempt with its traceback; the last failure is told anyway.
    logging.getLogger("optuna.artifacts._backoff").setLevel(logging.CRITICAL)
    store: _Store = Boto3ArtifactStore(bucket, client)
    return _Prefixed(store, prefix) if prefix else store
