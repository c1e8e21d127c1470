"""From a classifier's parameters to a recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna.storages import BaseStorage
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from torch import nn

from glora_automl.architecture import Architecture
from glora_automl.backbones import BackboneSettings, create_backbone
from glora_automl.presets import read_architecture
from glora_automl.recipes import Recipe, load_recipe
from glora_automl.search_space import SearchSpaceSpec
from glora_automl.tasks import ImageSet, Task

__all__ = ["CONSTRAINTS", "bare_backbone", "recipe_of", "seed_of", "study_name"]


CONSTRAINTS: dict[str, list[Any]] = {
    "model": [str],
    "pretrained": ["boolean"],
    "model_kwargs": [dict, None],
    "budget": [Interval(Integral, 0, None, closed="left"), str],
    "architecture": [str, Architecture, None],
    "search_space": [str, SearchSpaceSpec],
    "epochs": [Interval(Integral, 1, None, closed="left")],
    "trials": [Interval(Integral, 1, None, closed="left")],
    "validation": [
        Interval(Integral, 1, None, closed="left"),
        Interval(Real, 0, 1, closed="neither"),
    ],
    "settings": [dict, None],
    "image_shape": [tuple, list, None],
    "pixel_range": [tuple, list, None],
    "random_state": ["random_state"],
    "device": [str],
    "storage": [str, BaseStorage, None],
    "runs": [str, Path],
    "verbose": ["boolean"],
}
"""What scikit-learn checks of each parameter, with a message in the form that all its own have."""


def recipe_of(parameters: Mapping[str, Any], seed: int) -> Recipe:
    """The recipe that a classifier's parameters stand for: ``own`` with changes.

    Args:
        parameters: Those of the constructor, by name.
        seed: Seed of all randomness.

    Raises:
        GLoRAError: If they do not go together.
    """
    space, given = parameters["search_space"], parameters["architecture"]
    epochs, tie, budget = (parameters[key] for key in ("epochs", "validation", "budget"))
    # What numpy counts with is no number to a recipe.
    return (
        load_recipe("own")
        .replace(
            name="classifier",
            description="images that scikit-learn was given",
            seed=seed,
            budget=budget if isinstance(budget, str) else int(budget),
            task={
                "source": "arrays",
                "validation": int(tie) if isinstance(tie, Integral) else float(tie),
            },
            backbone={
                "model": parameters["model"],
                "pretrained": bool(parameters["pretrained"]),
                "kwargs": dict(parameters["model_kwargs"] or {}),
            },
            search_space=space if isinstance(space, str) else space.model_dump(mode="json"),
            architecture=None if given is None else read_architecture(str(given)),
            # In the proportions of the recipe.
            training={"epochs": int(epochs), "warmup_epochs": int(epochs) // 20},
            search={"n_trials": int(parameters["trials"])},
            selection={"baselines": False},
        )
        .replace(**(parameters["settings"] or {}))
    )


def seed_of(random_state: int | np.random.RandomState | None) -> int:
    """A seed: the number itself, or one that is drawn.

    Example:
        >>> seed_of(7), seed_of(np.random.RandomState(0)) == seed_of(np.random.RandomState(0))
        (7, True)
    """
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def study_name(recipe: Recipe, images: np.ndarray, labels: np.ndarray) -> str:
    """A name that the same fit has again, and no other."""
    value = hashlib.sha256(json.dumps(recipe.identity(), sort_keys=True, default=str).encode())
    for array in (images, labels):
        value.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return f"classifier-{value.hexdigest()[:16]}"


def bare_backbone(settings: BackboneSettings, classes: tuple[str, ...], seed: int) -> nn.Module:
    """The backbone as it is before anything is trained, on the CPU.

    Raises:
        TaskError: If it cannot be had.
    """
    nothing = ImageSet(torch.zeros(0, 1, 1, 1, dtype=torch.uint8), torch.zeros(0).long())
    task = Task("arrays", classes, nothing, nothing, nothing)
    # Nothing is pretrained here, so nothing is cached.
    return create_backbone(settings, task, seed=seed, device=torch.device("cpu"), cache=Path())
