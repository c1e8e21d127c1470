"""All the places that images can come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from glora_automl.tasks._digits import DigitsSettings, load_digits
from glora_automl.tasks._images import Task
from glora_automl.tasks._npz import NpzSettings, load_npz

__all__ = ["TaskSettings", "load_task"]

TaskSettings = Annotated[DigitsSettings | NpzSettings, Field(discriminator="source")]
"""Settings of a task; ``source`` says of which kind."""


def load_task(settings: TaskSettings, seed: int) -> Task:
    """Load a task, whatever its source.

    Args:
        settings: Where its images come from.
        seed: Decides which images are fitted, validated and tested on, where that is drawn.

    Raises:
        TaskError: If the images cannot be had.
    """
    match settings:
        case DigitsSettings():
            return load_digits(settings, seed)
        case NpzSettings():
            return load_npz(settings, seed)
