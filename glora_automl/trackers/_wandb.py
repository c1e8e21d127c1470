"""Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["WandbTracker"]


class WandbTracker:
    """Records a study as a run of Weights & Biases.

    ``WANDB_PROJECT`` names the project, by default ``glora_automl``. ``WANDB_MODE=offline`` needs
    no server.
    """

    def __init__(self) -> None:
        import wandb

        self._wandb: Any = wandb
        self._run: Any = None
        self._groups: set[str] = set()

    def start(self, study: str, settings: Mapping[str, Any], folder: Path) -> None:
        """See :meth:`Tracker.start`."""
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "glora_automl"),
            name=study,
            config=dict(settings),
            dir=str(folder),
            settings=self._wandb.Settings(silent=True, console="off"),
            reinit="create_new",  # the caller may have a run of their own
        )

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        """See :meth:`Tracker.log`."""
        axis = f"{group}/step"  # each stage counts its own steps
        if group not in self._groups:
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{group}/*", step_metric=axis)
            self._groups.add(group)
        self._run.log({f"{group}/{key}": value for key, value in values.items()} | {axis: step})

    def add_file(self, path: Path) -> None:
        """See :meth:`Tracker.add_file`."""
        artifact = self._wandb.Artifact(path.stem, type="adapter")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def finish(self, *, failed: bool) -> None:
        """See :meth:`Tracker.finish`."""
        self._run.finish(exit_code=int(failed))
