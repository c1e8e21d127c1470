"""Trackers by name."""

from __future__ import annotations

from typing import Any

from glora_automl._declarations import suggest
from glora_automl._messages import one_line, short
from glora_automl.errors import RecipeError
from glora_automl.trackers._mlflow import MLflowTracker
from glora_automl.trackers._tensorboard import TensorBoardTracker
from glora_automl.trackers._wandb import WandbTracker

__all__ = ["TRACKERS", "open_tracker"]

TRACKERS: dict[str, Any] = {
    "mlflow": MLflowTracker,
    "wandb": WandbTracker,
    "tensorboard": TensorBoardTracker,
}
"""Trackers by the name of their package, which is an extra of this one."""


def open_tracker(name: str) -> Any:
    """Return a tracker by its name.

    Raises:
        RecipeError: If there is none of that name, or its package is missing.

    Example:
        >>> open_tracker("mlflaw")
        Traceback (most recent call last):
        glora_automl.errors.RecipeError: `track` must be one of mlflow, wandb, tensorboard, ...
    """
    if name not in TRACKERS:
        raise RecipeError(
            f"`track` must be one of {', '.join(TRACKERS)}, got {short(name)}. "
            f"{suggest(name, list(TRACKERS))}"
        )
    try:
        return TRACKERS[name]()
    except ImportError as error:
        raise RecipeError(
            f"{name} must be installed, got: {str(error).splitlines()[0]}. Run pip install "
            f'"glora-automl[{name}]".'
        ) from None
    except Exception as error:  # the packages read variables of the environment
        raise RecipeError(
            f"{name} must be usable, got: {one_line(error)}. Correct its variables of the "
            "environment, or leave out `track`."
        ) from None
