"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glora_automl._markdown import markdown_table

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """Records a study for TensorBoard, in the folder ``tensorboard`` of the study."""

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._create: Any = SummaryWriter
        self._writer: Any = None

    def start(self, study: str, settings: Mapping[str, Any], folder: Path) -> None:
        """See :meth:`Tracker.start`."""
        self._writer = self._create(str(folder / "tensorboard"))
        lines = [(key, str(value)) for key, value in settings.items()]
        self._writer.add_text("recipe", markdown_table(("setting", "value"), lines))

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        """See :meth:`Tracker.log`."""
        for key, value in values.items():
            self._writer.add_scalar(f"{group}/{key}", value, step)

    def add_file(self, path: Path) -> None:
        """Record the path of a file: TensorBoard keeps no files."""
        self._writer.add_text("files", str(path))

    def finish(self, *, failed: bool) -> None:
        """See :meth:`Tracker.finish`."""
        self._writer.close()
