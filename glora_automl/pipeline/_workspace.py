"""The environment of all work: where studies and files are, and how to compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import optuna
from optuna.storages import BaseStorage

from glora_automl._files import make_folder, sweep, user_path
from glora_automl._messages import hide, short
from glora_automl.errors import RecipeError, StorageError
from glora_automl.progress import LogFormat, LogProgress, Progress
from glora_automl.storages import (
    Artifacts,
    PatientStorage,
    default_artifacts,
    default_url,
    open_artifacts,
    open_storage,
)
from glora_automl.trackers import Tracker

__all__ = ["CACHE", "DOWNLOADS", "RESERVED", "Publish", "Workspace"]

CACHE = "backbones"
"""Folder of pretrained backbones in a runs folder."""

DOWNLOADS = "downloads"
"""Folder of downloaded artifacts in a runs folder."""

MAX_SECONDS = 1_000_000
"""Longest heartbeat and patience."""

RESERVED = (CACHE, DOWNLOADS, "artifacts")
"""Folders of a runs folder that are no studies."""

Publish = Callable[[optuna.Study], object]
"""Writes note and pictures into a study, such as :func:`glora_automl.report.publish`."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where studies and files are, and how to compute: the same for every verb.

    Attributes:
        runs: Folder of this machine's files, and by default of database and artifacts.
        storage: URL of a database, path of a journal file, or any Optuna storage. None is SQLite
            in ``runs``.
        artifacts: Folder or ``s3://bucket/prefix`` of supernet and winner, which other machines
            need. None is the study's store, or a folder in ``runs`` for a new study.
        data: Where this machine has the images, if not where the study says: a path, or the arrays
            of a study whose images are arrays, as for :func:`glora_automl.search`.
        device: ``auto``, or a device that torch knows.
        heartbeat: Seconds between a worker's heartbeats, from 1 to 1,000,000. A trial is
            stale after three of them. A study keeps the value that it was created with.
        patience: Seconds to wait for a database that does not answer, from 0 to 1,000,000.
        progress: Display of long work; by default the logger ``glora_automl``, at the level INFO.
        stop: Asked at safe points whether to stop.
        log_format: ``text`` or ``json`` writes a log file per worker, in the folder ``logs`` of the
            study. None writes none.
        trackers: Trackers such as :class:`glora_automl.trackers.MLflowTracker`, which record
            stages, epochs, trials and the result.
        publish: Called with the study after each generation and at the end, by one worker at a
            time.

    Raises:
        GLoRAError: If a value is out of bounds or no path.

    Example:
        >>> Workspace(runs="/tmp/runs").storage_location
        'sqlite:////tmp/runs/studies.db'
    """

    runs: str | Path = "runs"
    storage: str | BaseStorage | None = None
    artifacts: str | None = None
    data: str | tuple[np.ndarray, ...] | None = None
    device: str = "auto"
    heartbeat: float = 10.0
    patience: float = 300.0
    progress: Progress = field(default_factory=LogProgress)
    stop: Callable[[], bool] | None = None
    publish: Publish | None = None
    log_format: LogFormat | None = None
    trackers: Sequence[Tracker] = ()

    def __post_init__(self) -> None:
        for name, value, least in (
            ("heartbeat", self.heartbeat, 1),
            ("patience", self.patience, 0),
        ):
            if not (isinstance(value, int | float) and least <= value <= MAX_SECONDS):
                raise RecipeError(
                    f"{name} must be from {least} to {MAX_SECONDS:,} seconds, got {short(value)}. "
                    f"Correct `{name}`."
                )
        user_path(self.runs, "runs", StorageError)
        for name, text in (("artifacts", self.artifacts), ("data", self.data)):
            if text is not None and not isinstance(text, tuple):
                user_path(text, name, StorageError)
        if isinstance(self.storage, str):
            hide(self.storage)
            if not self.storage or "\0" in self.storage or len(self.storage) > 4096:
                raise StorageError(
                    "storage must be a URL or a path of at most 4,096 characters, got "
                    f"{short(self.storage)}. Correct `storage`."
                )
        if not isinstance(self.device, str):
            raise StorageError(f"device must be text, got {short(self.device)}. Set `device`.")

    @property
    def folder(self) -> Path:
        """The runs folder."""
        return user_path(self.runs, "runs", StorageError)

    @property
    def storage_location(self) -> str | BaseStorage:
        """The storage, with the default filled in."""
        return default_url(self.folder) if self.storage is None else self.storage

    def with_open_storage(self, *, create: bool = True) -> Workspace:
        """Return the workspace with its storage opened.

        Args:
            create: Whether a database that does not exist is created.

        Raises:
            StorageError: If the storage cannot be opened.
        """
        if self.folder.is_dir():
            for folder in (self.folder, *self.folder.iterdir()):
                sweep(folder)
        storage = self.storage_location
        if not isinstance(storage, BaseStorage):
            if create and self.storage is None:
                make_folder(self.folder)
            storage = open_storage(storage, create=create, patience=self.patience, stop=self.stop)
        if isinstance(storage, PatientStorage):
            storage.stop = self.stop
        return replace(self, storage=storage)

    @property
    def opened_storage(self) -> BaseStorage:
        """The storage of :meth:`with_open_storage`."""
        assert isinstance(self.storage, BaseStorage), "open the storage first"
        return self.storage

    def open_artifacts(self, known: str | None = None) -> Artifacts:
        """Open the artifact store.

        Args:
            known: The store that the study names; None for a new study.

        Raises:
            StorageError: If the store cannot be opened.
        """
        location = self.artifacts or known or default_artifacts(self.folder)
        return open_artifacts(
            location,
            cache=self.folder / DOWNLOADS,
            create=known is None,
            stop=self.stop,
            log=self.progress.log,
        )
