"""What a run records outside of its study: a log file per worker, and trackers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial

from glora_automl.pipeline._run import Run
from glora_automl.progress import ProgressGroup, log_to_file
from glora_automl.study import CONSTRAINT, Row
from glora_automl.trackers import GuardedTracker, TrackerProgress

__all__ = ["record_result", "recorded", "trial_recorder"]

LOGS = "logs"
"""Folder of a study with a log file per worker."""


@contextmanager
def recorded(run: Run) -> Iterator[Run]:
    """Write the log file and the trackers of a worker inside the block.

    Args:
        run: The run, whose workspace names them.
    """
    context, workspace = run.context, run.workspace
    if not context.process_group.is_main:
        yield run
        return
    with ExitStack() as stack:
        if workspace.log_format is not None:
            file = context.folder / LOGS / f"{run.worker.name}.log"
            stack.enter_context(log_to_file(file, workspace.log_format, run.worker.name))
        if workspace.trackers:
            run = stack.enter_context(_tracked(run))
        yield run


@contextmanager
def _tracked(run: Run) -> Iterator[Run]:
    context = run.context
    tracker = GuardedTracker(run.workspace.trackers, context.progress.log)
    progress = ProgressGroup([context.progress, TrackerProgress(tracker)])
    tracker.start(run.study.study_name, _flat_settings(run), context.folder)
    failed = True
    try:
        yield replace(run, context=replace(context, progress=progress), tracker=tracker)
        failed = False
    finally:
        tracker.finish(failed=failed)


def _flat_settings(run: Run) -> dict[str, Any]:
    settings = run.context.recipe.identity() | {"budget": run.context.budget}
    return {
        key: value if isinstance(value, str | int | float | bool) else json.dumps(value)
        for key, value in settings.items()
        if value is not None
    }


def trial_recorder(run: Run) -> Any:
    """Return a function that records the finished trials of this worker; None without trackers."""
    tracker = run.tracker
    if tracker is None:
        return None

    def record(trials: Sequence[FrozenTrial]) -> None:
        for trial in trials:
            attrs = trial.user_attrs
            if attrs.get("worker") != run.worker.name or trial.values is None:
                continue  # another worker records it
            values = {"value": trial.values[0]}
            for name in (CONSTRAINT, "validation_accuracy", "validation_loss"):
                if isinstance(attrs.get(name), int | float):
                    values[name] = attrs[name]
            tracker.log("trials", values, trial.number)

    return record


def record_result(run: Run, rows: Sequence[Row]) -> None:
    """Record the final figures, and the files of the selected adapter."""
    tracker = run.tracker
    if tracker is None:
        return
    for row in rows:
        values: dict[str, float] = {"seconds": row.seconds, "images": row.n_images}
        if row.n_params is not None:
            values["trainable_params"] = row.n_params
        for split, score in (("validation", row.validation), ("test", row.test)):
            if score is not None:
                values |= {f"{split}_accuracy": score.accuracy, f"{split}_loss": score.loss}
        tracker.log(f"result/{row.name}", values, 0)
    for path in sorted(run.context.folder.glob("winner*")):
        tracker.add_file(path)
