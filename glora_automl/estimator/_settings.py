"""Recipe of a classifier's parameters."""

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
from glora_automl.budget import Budget
from glora_automl.presets import read_architecture
from glora_automl.recipes import Recipe, load_recipe
from glora_automl.search_space import SearchSpaceSpec
from glora_automl.tasks import ImageSet, Task

__all__ = ["CONSTRAINTS", "bare_backbone", "build_recipe", "resolve_seed", "study_name"]


CONSTRAINTS: dict[str, list[Any]] = {
    "model": [str],
    "pretrained": ["boolean"],
    "model_kwargs": [dict, None],
    "budget": [Interval(Integral, 0, None, closed="left"), str, Budget],
    "architecture": [str, Architecture, None],
    "search_space": [str, SearchSpaceSpec],
    "epochs": [Interval(Integral, 1, None, closed="left")],
    "n_trials": [Interval(Integral, 1, None, closed="left")],
    "validation_size": [
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
"""Constraints of the parameters, which scikit-learn checks."""


def build_recipe(parameters: Mapping[str, Any], seed: int) -> Recipe:
    """Return the recipe ``own`` with a classifier's parameters.

    Args:
        parameters: Parameters of the constructor, by name.
        seed: Seed of all randomness.

    Raises:
        GLoRAError: If the parameters contradict each other.
    """
    space, architecture = parameters["search_space"], parameters["architecture"]
    epochs, size = int(parameters["epochs"]), parameters["validation_size"]
    # A recipe refuses numpy's numbers.
    return (
        load_recipe("own")
        .replace(
            name="classifier",
            description="images of a scikit-learn classifier",
            seed=seed,
            budget=Budget.parse(parameters["budget"]),
            task={
                "source": "arrays",
                "validation_size": int(size) if isinstance(size, Integral) else float(size),
            },
            backbone={
                "model": parameters["model"],
                "pretrained": bool(parameters["pretrained"]),
                "kwargs": dict(parameters["model_kwargs"] or {}),
            },
            search_space=space if isinstance(space, str) else space.model_dump(mode="json"),
            architecture=None if architecture is None else read_architecture(str(architecture)),
            # The recipe warms up for a twentieth of its epochs.
            training={"epochs": epochs, "warmup_epochs": epochs // 20},
            search={"n_trials": int(parameters["n_trials"])},
            selection={"baselines": False},
        )
        .replace(**(parameters["settings"] or {}))
    )


def resolve_seed(random_state: int | np.random.RandomState | None) -> int:
    """Return the seed, drawn from a generator or from numpy's global one for None.

    Example:
        >>> resolve_seed(7), resolve_seed(np.random.RandomState(0))
        (7, 209652396)
    """
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def study_name(recipe: Recipe, images: np.ndarray, labels: np.ndarray) -> str:
    """Return a study name that depends on recipe, images and labels."""
    digest = hashlib.sha256(json.dumps(recipe.identity(), sort_keys=True, default=str).encode())
    for array in (images, labels):
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return f"classifier-{digest.hexdigest()[:16]}"


def bare_backbone(settings: BackboneSettings, classes: tuple[str, ...], seed: int) -> nn.Module:
    """Create the untrained backbone on the CPU.

    Raises:
        TaskError: If timm cannot create it.
    """
    empty = ImageSet(torch.zeros(0, 1, 1, 1, dtype=torch.uint8), torch.zeros(0).long())
    task = Task("arrays", classes, empty, empty, empty)
    # The cache is unused without pretraining.
    return create_backbone(settings, task, seed=seed, device=torch.device("cpu"), cache=Path())
