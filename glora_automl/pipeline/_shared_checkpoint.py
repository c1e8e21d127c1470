"""A training's checkpoint in the artifact store, from which another machine continues."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from glora_automl.errors import CheckpointError
from glora_automl.pipeline._run import Run
from glora_automl.storages import ArtifactReference
from glora_automl.training import CheckpointFiles
from glora_automl.workers import Claim

__all__ = ["SharedCheckpoint"]


class SharedCheckpoint:
    """The checkpoint of a stage's training, on this machine and in the artifact store.

    Args:
        run: The study.
        claim: The stage's attempt.
        path: JSON file of the checkpoint on this machine.
    """

    max_upload_share = 0.05
    """Largest share of the training's time that is spent on uploads."""

    def __init__(self, run: Run, claim: Claim, path: Path) -> None:
        self._run = run
        self._claim = claim
        self.path = path
        self._notes = [a["checkpoint"] for a in claim.earlier if "checkpoint" in a]
        self._uploaded: dict[str, Any] | None = None
        self._next_upload = 0.0
        claim.afterwards.append(self._clear)

    def take_over(self) -> None:
        """Fetch the checkpoint of another worker that is further than this machine's."""
        # The later one of equals: it may have replaced the earlier one.
        for note in sorted(self._notes, key=_progress)[::-1]:
            if _progress(note) <= self._local():
                return
            artifacts = self._run.artifacts
            try:
                file = artifacts.fetch(ArtifactReference(**note["artifact"]))
                CheckpointFiles(file, note["record"]).place(self.path)
                artifacts.forget(file)
                return
            except CheckpointError as error:
                self._run.context.progress.log(f"{error} Using an earlier checkpoint.")

    def _local(self) -> tuple[int, int]:
        try:
            return _progress({"record": CheckpointFiles.read(self.path).record})
        except (OSError, ValueError, KeyError):
            return (-1, 0)

    def publish(self, path: Path) -> None:
        """Upload the checkpoint, unless the last upload was too recent; always before a stop.

        Args:
            path: JSON file of the checkpoint. That of a restart has another path and is not
                uploaded: another machine begins the restart again.
        """
        if path != self.path:
            return
        stopping = self._run.context.stop is not None and self._run.context.stop()
        begin = time.monotonic()
        if begin < self._next_upload and not stopping:
            return
        files = CheckpointFiles.read(self.path)
        reference = self._run.artifacts.store(files.weights)
        note = {"record": files.record, "artifact": reference._asdict()}
        self._claim.note("checkpoint", note)
        if self._uploaded is not None:
            self._remove(self._uploaded)
        self._uploaded = note
        end = time.monotonic()
        self._next_upload = end + (end - begin) / self.max_upload_share

    def _clear(self) -> None:
        """Remove all uploaded checkpoints: the stage is done."""
        for note in [*self._notes, *([self._uploaded] if self._uploaded else [])]:
            self._remove(note)

    def _remove(self, note: dict[str, Any]) -> None:
        self._run.artifacts.remove(ArtifactReference(**note["artifact"]))


def _progress(note: dict[str, Any]) -> tuple[int, int]:
    """Return epochs and steps of an uploaded checkpoint."""
    state = note["record"]["state"]
    return len(state["losses"]), int(state.get("step", 0))
