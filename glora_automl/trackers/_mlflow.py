"""MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["MLflowTracker"]

MAX_PARAM = 500
"""Characters of a setting; MLflow 2 allows no more."""


class MLflowTracker:
    """Records a study as a run of MLflow.

    ``MLFLOW_TRACKING_URI`` names the server, and ``MLFLOW_EXPERIMENT_NAME`` the experiment, by
    default ``glora_automl``.
    """

    def __init__(self) -> None:
        import mlflow

        # A client, not the module: the caller may have a run of their own.
        self._client: Any = mlflow.MlflowClient()
        self._entities: Any = mlflow.entities
        self._run = ""

    def start(self, study: str, settings: Mapping[str, Any], folder: Path) -> None:
        """See :meth:`Tracker.start`."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "glora_automl")
        found = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if found is None else found.experiment_id
        run = self._client.create_run(number, run_name=study, tags={"glora.study": study})
        self._run = run.info.run_id
        params = [
            self._entities.Param(key, str(value)[:MAX_PARAM]) for key, value in settings.items()
        ]
        for start in range(0, len(params), 100):  # the largest batch
            self._client.log_batch(self._run, params=params[start : start + 100])

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        """See :meth:`Tracker.log`."""
        now = int(1000 * time.time())
        metrics = [
            self._entities.Metric(_name(f"{group}/{key}"), value, now, step)
            for key, value in values.items()
        ]
        self._client.log_batch(self._run, metrics=metrics)

    def add_file(self, path: Path) -> None:
        """See :meth:`Tracker.add_file`."""
        self._client.log_artifact(self._run, str(path))

    def finish(self, *, failed: bool) -> None:
        """See :meth:`Tracker.finish`."""
        self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")


def _name(text: str) -> str:
    """Return a name with the characters that MLflow allows.

    Example:
        >>> _name("Baseline: LoRA r=2/loss")
        'Baseline_ LoRA r_2/loss'
    """
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in text)
