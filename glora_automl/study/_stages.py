"""The stages of a study: units of work that are done once."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["REOPENED", "Stage", "StageName"]


class Stage(StrEnum):
    """Kinds of stages."""

    SETTINGS = "settings"
    BACKBONES = "backbones"
    BACKBONE = "backbone"
    TUNE = "tune"
    SUPERNET = "supernet"
    SEARCH = "search"
    BASELINE = "baseline"
    SELECTION = "selection"
    LADDER = "ladder"
    REFIT = "refit"
    TEST = "test"
    SELECT = "select"
    COMPARE = "compare"
    REPORT = "report"


REOPENED = frozenset(
    {Stage.SELECTION, Stage.LADDER, Stage.REFIT, Stage.TEST, Stage.SELECT, Stage.COMPARE}
)
"""Kinds of stages that depend on the trials, and are done again when a study gets more of them."""


class StageName(NamedTuple):
    """A stage of one study.

    Attributes:
        stage: Its kind.
        detail: Distinguishes stages of one kind, such as the name of a baseline.

    Example:
        >>> name = StageName(Stage.BASELINE, "LoRA r=2")
        >>> str(name), StageName.parse(str(name)).stage
        ('baseline-LoRA-r2', <Stage.BASELINE: 'baseline'>)
    """

    stage: Stage
    detail: str = ""

    def __str__(self) -> str:
        detail = self.detail.replace(" ", "-").replace("=", "")
        return f"{self.stage}-{detail}" if detail else str(self.stage)

    @classmethod
    def parse(cls, text: str) -> StageName:
        """Return the stage of a printed name."""
        stage, _, detail = text.partition("-")
        return cls(Stage(stage), detail)
