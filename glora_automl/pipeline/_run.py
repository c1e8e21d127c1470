"""A run: a study on this machine, with everything that its stages work with."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.samplers import BaseSampler
from torch import Tensor

from glora_automl.errors import StudyError
from glora_automl.pipeline._context import Context
from glora_automl.pipeline._workspace import Publish, Workspace
from glora_automl.storages import ArtifactReference, Artifacts
from glora_automl.study import Attribute, Stage, get_attribute, get_setting, set_attribute
from glora_automl.trackers import GuardedTracker
from glora_automl.training import load_tensors, save_tensors, tensor_digest
from glora_automl.workers import Callback, Stages, Worker

__all__ = ["Run", "Uploaded"]


class Uploaded(NamedTuple):
    """Tensors among the study's artifacts.

    Attributes:
        digest: sha256 of the tensors.
        artifact: The file.
    """

    digest: str
    artifact: ArtifactReference


@dataclass(frozen=True, eq=False)
class Run:
    """A study on this machine.

    Attributes:
        study: The Optuna study.
        context: Its recipe on this machine.
        stages: Its stages.
        artifacts: Store of its files.
        worker: The worker of this process.
        workspace: The environment.
        sampler: Proposes the trials instead of the recipe's sampler, if given.
        callbacks: Called after each trial of this process.
        deadline: Moment of :func:`time.monotonic` at which the search ends; None for none.
        tracker: Records the run outside of the study, if the workspace has trackers.
    """

    study: optuna.Study
    context: Context
    stages: Stages
    artifacts: Artifacts
    worker: Worker
    workspace: Workspace
    sampler: BaseSampler | None = None
    callbacks: tuple[Callback, ...] = ()
    deadline: float | None = None
    tracker: GuardedTracker | None = None

    @property
    def publish(self) -> Publish | None:
        """Writes note and pictures into the study, if given."""
        return self.workspace.publish

    @property
    def name(self) -> str:
        """Name of the study, also of one that was deleted."""
        return self.context.folder.name

    def with_context(self, context: Context) -> Run:
        """Return the run with another context."""
        return replace(self, context=context)

    def check_settings(self) -> None:
        """Check that the study is still the one that was opened; see :meth:`target`."""
        self.target()

    def target(self) -> int:
        """Return the number of complete trials that the study is to have.

        Raises:
            StudyError: If another process has deleted the study or begun it again.
        """
        try:
            settings = get_attribute(self.study, "settings")
            found = str(settings["key"])
        except (KeyError, TypeError):
            found = ""
        if found != self.stages.key:
            raise StudyError(
                f"The study {self.name!r} must stay in its storage and keep its settings while a "
                "worker uses it, but another process has deleted it or begun it again. Repeat the "
                "call, or choose another `name`."
            )
        return int(settings["target"])

    @property
    def is_overdue(self) -> bool:
        """Whether the time of the search is over."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def check_finished(self) -> None:
        """Check that the study is finished.

        Raises:
            StudyError: If it is not.
        """
        if not self.stages.is_done(Stage.TEST):
            name = self.study.study_name
            raise StudyError(
                f"The study {name!r} must be finished. Run 'glora resume {name}', or "
                f"'glora select {name}' to end its search with the trials that are done."
            )

    def checkpoint(self, stage: str, detail: str = "") -> Path:
        """Return the checkpoint file of a stage; other settings have another file."""
        return self.context.folder / f"{stage}.{self.stages.key}{detail}.json"

    def upload(self, stage: str, tensors: dict[str, Tensor]) -> Uploaded:
        """Store tensors among the study's artifacts.

        Args:
            stage: The stage that made them; it names the file.
            tensors: The tensors.
        """
        path = self.context.folder / f"{stage}.safetensors"
        digest = save_tensors(path, tensors)
        reference = self.artifacts.upload(path, self.study)
        path.unlink(missing_ok=True)
        return Uploaded(digest, reference)

    def download(self, artifact: ArtifactReference) -> dict[str, Tensor]:
        """Return the tensors of an artifact.

        Raises:
            CheckpointError: If they are missing or altered.
        """
        return load_tensors(self.artifacts.fetch(artifact))

    def record(self, key: Attribute, value: Any) -> None:
        """Write an attribute of the study, unless another worker has written it."""
        self.check_settings()
        set_attribute(self.study, key, value)

    def check_digest(self, what: str, expected: str, tensors: dict[str, Tensor]) -> None:
        """Check that tensors are those of the study.

        Raises:
            StudyError: If they are not.
        """
        digest = tensor_digest(tensors)
        if digest != expected:
            raise StudyError(
                f"The {what} of the study {self.study.study_name!r} must have the digest "
                f"{expected[:16]}, got {digest[:16]}. Use the study's weights and versions "
                f"({get_setting(self.study, 'versions')})."
            )
