"""A study on this machine: what every stage of it works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from torch import Tensor

from glora_automl.errors import StudyError
from glora_automl.pipeline._context import Setup
from glora_automl.storages import ArtifactReference, Artifacts
from glora_automl.study import Attribute, get_setting, set_attribute, study_key
from glora_automl.training import load_tensors, save_tensors, tensor_digest
from glora_automl.workers import Stages, Worker

__all__ = ["Publish", "Run"]

Publish = Callable[[optuna.Study], object]
"""Writes what people look at into a study, such as :func:`glora_automl.report.publish`."""


@dataclass(frozen=True, eq=False)
class Run:
    """A study on this machine.

    Attributes:
        study: The Optuna study.
        setup: Its recipe on this machine.
        stages: What is done once for it.
        artifacts: Where its files are.
        worker: Who works here.
        publish: What writes what people look at, if anything does.
    """

    study: optuna.Study
    setup: Setup
    stages: Stages
    artifacts: Artifacts
    worker: Worker
    publish: Publish | None = None

    def with_setup(self, setup: Setup) -> Run:
        """The same with another setup."""
        return replace(self, setup=setup)

    def check_settings(self) -> None:
        """Make sure that the study is still this one: another recipe may have taken its name.

        Raises:
            StudyError: If it is not.
        """
        if study_key(self.study) != self.stages.key:
            raise StudyError(
                f"The study {self.study.study_name!r} must keep its settings while it is worked "
                "on, but somebody has started it anew with others; start this one under another "
                "name with --name."
            )

    def check_finished(self) -> None:
        """Make sure that the study is finished.

        Raises:
            StudyError: If it is not.
        """
        if self.stages.outcome("test") is None:
            name = self.study.study_name
            raise StudyError(
                f"The study {name!r} must be finished first: run 'glora resume {name}'."
            )

    def check_searched(self) -> None:
        """Make sure that the study is one with a search, and so with a supernet.

        Raises:
            StudyError: If it trains an architecture that was given.
        """
        if self.setup.recipe.architecture is not None:
            raise StudyError(
                f"The study {self.study.study_name!r} must be one with a search, but it trains an "
                "architecture that was given; take one of 'glora search'."
            )

    def checkpoint(self, stage: str, of: str = "") -> Path:
        """File for a checkpoint of a stage; that of other settings is another file."""
        return self.setup.folder / f"{stage}-{self.stages.key}{of}.json"

    def upload(self, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Put tensors among the study's artifacts.

        Args:
            name: Name of the file; the stage that it comes from, so that nobody else writes it.
            tensors: What is in it.

        Returns:
            Their digest, and where they are; JSON.
        """
        path = self.setup.folder / f"{name}.safetensors"
        digest = save_tensors(path, tensors)
        reference = self.artifacts.upload(path, self.study)
        path.unlink(missing_ok=True)
        return {"digest": digest, "artifact": reference._asdict()}

    def download(self, outcome: dict[str, Any]) -> dict[str, Tensor]:
        """The tensors that :meth:`upload` has described.

        Raises:
            CheckpointError: If they are missing or altered.
        """
        return load_tensors(self.artifacts.fetch(ArtifactReference(**outcome["artifact"])))

    def record(self, key: Attribute, value: Any) -> None:
        """Write what a stage has found into the study; whoever sees it first does."""
        set_attribute(self.study, key, value)

    def same_digest(self, what: str, outcome: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Insist that weights are those of the study's trials.

        Raises:
            StudyError: If they are not.
        """
        digest = tensor_digest(tensors)
        if digest != outcome["digest"]:
            raise StudyError(
                f"The {what} of the study {self.study.study_name!r} must have the digest "
                f"{outcome['digest'][:16]}..., here it is {digest[:16]}...: its weights are "
                "others, or other versions of torch and timm make other ones; use the study's "
                f"versions ({get_setting(self.study, 'versions')})."
            )
