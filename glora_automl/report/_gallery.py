"""All pictures of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from glora_automl.report._architecture import architecture_picture, survival_picture
from glora_automl.report._classes import confusion_picture
from glora_automl.report._cost import cost_picture
from glora_automl.report._importance import importance_picture
from glora_automl.report._picture import Picture
from glora_automl.report._progress import (
    adapters_picture,
    front_picture,
    generations_picture,
    history_picture,
    loss_picture,
)
from glora_automl.report._snapshot import Snapshot

__all__ = ["PICTURES", "pictures"]

PICTURES: dict[str, Callable[[Snapshot], Picture | None]] = {
    "architecture": architecture_picture,
    "front": front_picture,
    "adapters": adapters_picture,
    "confusion": confusion_picture,
    "survival": survival_picture,
    "importance": importance_picture,
    "history": history_picture,
    "generations": generations_picture,
    "supernet": loss_picture,
    "cost": cost_picture,
}
"""Functions that make a picture of a study, by name. They return None without data."""


def pictures(snapshot: Snapshot, names: Iterable[str] = PICTURES) -> list[Picture]:
    """Return the named pictures, without those that have no data yet."""
    made = [PICTURES[name](snapshot) for name in names]
    return [picture for picture in made if picture is not None]
