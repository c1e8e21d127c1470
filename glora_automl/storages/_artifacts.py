"""Files of a study in an Optuna artifact store."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import optuna
from optuna.artifacts import Backoff, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage

from glora_automl._files import (
    file_digest,
    file_lock,
    make_folder,
    remove_torn,
    user_path,
    write_atomic,
)
from glora_automl.errors import CheckpointError, StorageError
from glora_automl.storages._stores import FolderStore, Store, open_s3, reason_of

__all__ = ["ArtifactReference", "Artifacts", "default_artifacts", "open_artifacts"]


def default_artifacts(runs: Path) -> str:
    """Return the artifact store of a runs folder.

    Example:
        >>> default_artifacts(Path("runs"))
        'runs/artifacts'
    """
    return (runs / "artifacts").as_posix()


class ArtifactReference(NamedTuple):
    """Reference to a file in an artifact store.

    Attributes:
        id: Name in the artifact store.
        sha256: Digest of the content.
        size: Size in bytes.
    """

    id: str
    sha256: str
    size: int


class _DeferredStorage:
    """A substitute for the storage that defers the metadata of an upload.

    Optuna writes the metadata of an artifact before its content. A worker that is killed between
    the two would leave metadata without a file.
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
    """An artifact store with a cache of verified downloads.

    Args:
        store: The artifact store.
        remover: The artifact store without retries, as ``optuna.artifacts.Backoff`` repeats a
            successful removal.
        location: Location in messages.
        cache: Folder of the downloads, named by digest.
        folder: Folder of the artifacts if they are local files, which are not downloaded.
        stop: Returns whether to stop waiting for the download of another process.
        log: Called with one line if another process is waited for.

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
        store: Store,
        remover: Store,
        location: str,
        cache: Path,
        folder: Path | None = None,
        stop: Callable[[], bool] | None = None,
        log: Callable[[str], object] | None = None,
    ) -> None:
        self._store = store
        self._remover = remover
        self.location = location
        self._cache = cache
        self._folder = folder
        self._stop = stop
        self._log = log

    @property
    def backend(self) -> Any:
        """The Optuna artifact store, without verification."""
        return self._store

    def upload(self, path: Path, study: optuna.Study) -> ArtifactReference:
        """Upload a file, then list it among the artifacts of a study.

        Raises:
            StorageError: If the store cannot be written.
        """
        deferred = _DeferredStorage()
        with self._writing(deferred):
            artifact_id = upload_artifact(
                artifact_store=self._store,
                file_path=str(path),
                study_or_trial=study,
                storage=cast(BaseStorage, deferred),
            )
        study._storage.set_study_system_attr(study._study_id, deferred.key, deferred.value)
        return ArtifactReference(artifact_id, file_digest(path), path.stat().st_size)

    def store(self, path: Path) -> ArtifactReference:
        """Upload a temporary file without listing it.

        Raises:
            StorageError: If the store cannot be written.
        """
        deferred = _DeferredStorage()
        deferred.key = f"{_DeferredStorage.prefix}{uuid.uuid4()}"
        with self._writing(deferred), path.open("rb") as file:
            self._store.write(deferred.artifact_id, file)
        return ArtifactReference(deferred.artifact_id, file_digest(path), path.stat().st_size)

    def publish(self, name: str, path: Path) -> None:
        """Put a file into the store under a name that any process can look up.

        The last of several files with one name counts.

        Args:
            name: The name, such as a digest of everything that the file depends on.
            path: The file.

        Raises:
            StorageError: If the store cannot be written.
        """
        data = json.dumps(self.store(path)._asdict()).encode()
        with self._errors("writable"):
            self._store.write(f"{name}.json", io.BytesIO(data))

    def mark(self, token: str) -> None:
        """Put an empty file into the store, by which :meth:`has_mark` knows the store again.

        Raises:
            StorageError: If the store cannot be written.
        """
        with self._errors("writable"):
            self._store.write(_MARK + token, io.BytesIO())

    def has_mark(self, token: str) -> bool:
        """Return whether the store, or the one of which it is a copy, was given a mark.

        Raises:
            StorageError: If the store cannot be read.
        """
        with self._errors("readable"):
            try:
                self._store.open_reader(_MARK + token).close()
            except ArtifactNotFound:
                return False
        return True

    def find(self, name: str) -> Path | None:
        """Return the file that was published under a name; None without any.

        Raises:
            CheckpointError: If the file is missing or altered.
            StorageError: If the store cannot be read.
        """
        with self._errors("readable"):
            try:
                with self._store.open_reader(f"{name}.json") as reader:
                    reference = ArtifactReference(**json.loads(reader.read()))
            except ArtifactNotFound:
                return None
            except (ValueError, TypeError):
                raise CheckpointError(
                    f"The artifact '{name[:60]}.json' in {self.location!r} must be JSON that this "
                    "package wrote, got something else. Delete it."
                ) from None
        return self.fetch(reference)

    @contextmanager
    def _writing(self, deferred: _DeferredStorage) -> Iterator[None]:
        """Remove an incomplete file after an error."""
        with self._errors("writable"):
            try:
                yield
            except BaseException:
                if deferred.key:
                    with contextlib.suppress(Exception):
                        self._remover.remove(deferred.artifact_id)
                raise

    def fetch(self, reference: ArtifactReference) -> Path:
        """Return the path of a verified file, downloaded if necessary; it is read-only.

        Raises:
            CheckpointError: If the file is missing or its digest differs.
            StorageError: If the store cannot be read or the cache cannot be written.
            Stopped: If ``stop`` asked to stop.
        """
        if not re.fullmatch("[0-9a-f]{64}", reference.sha256):  # it names a file of the cache
            raise self._missing(reference)
        if self._folder is not None:
            path = self._folder / Path(reference.id).name
            if not path.is_file():
                raise self._missing(reference)
            self._verify(reference, path)
            return path
        make_folder(self._cache)
        path = self._cache / f"{reference.sha256}{_SUFFIX}"
        # The workers of a machine share the cache: one downloads, the others wait.
        lock = path.with_suffix(".lock")
        with file_lock(lock, stop=self._stop, log=self._log, holder="which downloads an artifact"):
            if path.exists() and file_digest(path) == reference.sha256:
                return path
            remove_torn(self._cache, path.name)
            write_atomic(path, lambda file: self._download(reference, file))
        return path

    def _download(self, reference: ArtifactReference, file: Path) -> None:
        with self._errors("readable"):
            try:
                with self._store.open_reader(reference.id) as reader, file.open("wb") as writer:
                    shutil.copyfileobj(reader, writer)
            except ArtifactNotFound:
                raise self._missing(reference) from None
        self._verify(reference, file)

    def _missing(self, reference: ArtifactReference) -> CheckpointError:
        return CheckpointError(
            f"`artifacts` must hold the artifact {reference.id!r} of the study, got "
            f"{self.location!r}, where it is missing. Set `artifacts` to the store of the study."
        )

    def _verify(self, reference: ArtifactReference, file: Path) -> None:
        with self._errors("readable"):
            found = file_digest(file)
        if found != reference.sha256:
            raise CheckpointError(
                f"The artifact {reference.id!r} in {self.location!r} must have sha256 "
                f"{reference.sha256[:16]}..., got {found[:16]}...: altered or cut short. Restore "
                "it, or start a study with another `name`."
            )

    def forget(self, path: Path) -> None:
        """Remove a download from the cache; a file of the store stays."""
        if self._folder is None:
            path.unlink(missing_ok=True)

    def remove(self, reference: ArtifactReference) -> None:
        """Remove a file from the store; errors are ignored."""
        with contextlib.suppress(Exception):
            self._remover.remove(reference.id)

    @contextmanager
    def _errors(self, adjective: str) -> Iterator[None]:
        try:
            yield
        except (CheckpointError, StorageError):
            raise
        except Exception as error:  # cloud clients raise errors of many kinds
            raise StorageError(
                f"`artifacts` must be {adjective}, got {self.location!r}: {reason_of(error)}. Free "
                "disk space, or choose another `artifacts`."
            ) from error


_SUFFIX = ".artifact"
_MARK = "study-"


def open_artifacts(
    location: str,
    *,
    cache: Path,
    create: bool = True,
    stop: Callable[[], bool] | None = None,
    log: Callable[[str], object] | None = None,
) -> Artifacts:
    """Open an artifact store.

    Args:
        location: A folder, or ``s3://bucket/prefix``.
        cache: Folder for downloads.
        create: Whether to create a missing folder.
        stop: Returns whether to stop waiting for the download of another process.
        log: Called with one line if another process is waited for.

    Raises:
        StorageError: If the store cannot be opened.
    """
    if location.startswith("s3://"):
        store = open_s3(location)
        return Artifacts(Backoff(store), store, location, cache, stop=stop, log=log)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", location):
        raise StorageError(
            f"`artifacts` must be a folder or s3://bucket/prefix, got {location!r}. Choose another "
            "`artifacts`."
        )
    folder = user_path(location, "`artifacts`", StorageError)
    if create:
        make_folder(folder, "artifacts")
    elif not folder.is_dir():
        raise StorageError(
            f"`artifacts` must be a folder of this machine, got {location!r}. Set `artifacts` to "
            "the store of the study."
        )
    # Absolute, as the study records it and other workers may run in other folders.
    folder = folder.resolve()
    files = FolderStore(folder)
    return Artifacts(files, files, str(folder), cache, folder)
