"""Recipe of a classifier's parameters."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna.storages import BaseStorage, InMemoryStorage
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from glora_automl._messages import short
from glora_automl.architecture import Architecture
from glora_automl.backbones import BackboneSettings, create_backbone
from glora_automl.budget import Budget
from glora_automl.presets import read_architecture
from glora_automl.recipes import Recipe, load_recipe
from glora_automl.search_space import SearchSpaceSpec
from glora_automl.tasks import ImageSet, Task
from glora_automl.training import MetricName

__all__ = [
    "CONSTRAINTS",
    "NESTED",
    "bare_backbone",
    "build_recipe",
    "by_class",
    "nested_names",
    "resolve_seed",
    "study_name",
    "study_places",
    "with_nested",
]


METRIC_OF: dict[str, MetricName] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "f1_macro": "macro_f1",
    "roc_auc_ovr": "auroc",
    "neg_log_loss": "log_loss",
}
"""Metrics by the name of scikit-learn's scorer."""

NESTED = "settings__"
"""Begin of the name of a single setting."""

CONSTRAINTS: dict[str, list[Any]] = {
    "model": [str],
    "pretrained": ["boolean"],
    "model_kwargs": [dict, None],
    "budget": [Interval(Integral, 0, None, closed="left"), str, Budget],
    "architecture": [str, Architecture, None],
    "search_space": [str, SearchSpaceSpec],
    "epochs": [Interval(Integral, 1, None, closed="left")],
    "n_trials": [Interval(Integral, 1, None, closed="left")],
    "timeout": [Interval(Real, 0, None, closed="neither"), None],
    "validation_size": [
        Interval(Integral, 1, None, closed="left"),
        Interval(Real, 0, 1, closed="neither"),
    ],
    "class_weight": [StrOptions({"balanced"}), dict, None],
    "scoring": [StrOptions(set(METRIC_OF))],
    "settings": [dict, None],
    "image_shape": [tuple, list, None],
    "pixel_range": [tuple, list, None],
    "random_state": ["random_state"],
    "device": [str],
    "storage": [str, BaseStorage, None],
    "memory": [str, Path, None],
    "verbose": ["boolean"],
}
"""Constraints of the parameters, which scikit-learn checks."""


def by_class(weights: Any, classes: Sequence[Any]) -> Any:
    """Return weights by label in the order of the classes; a label without one has 1.

    As in scikit-learn, a weight of no class is an error where a class has none. A fold of a cross
    validation may lack a class.

    Raises:
        ValueError: If a class has no weight and a weight no class.

    Example:
        >>> by_class({"b": 3}, ["a", "b"]), by_class("balanced", ["a", "b"])
        ((1.0, 3.0), 'balanced')
    """
    if not isinstance(weights, Mapping):
        return weights
    without = [label for label in classes if label not in weights]
    unknown = [key for key in weights if key not in classes]
    if without and unknown:
        raise ValueError(
            "The class_weight of GLoRAClassifier must have labels of y as keys, got "
            f"{short(unknown[0])}, and no weight of the class {short(without[0])}. Correct a key."
        )
    return tuple(float(weights.get(label, 1.0)) for label in classes)


def build_recipe(parameters: Mapping[str, Any], seed: int, classes: Sequence[Any] = ()) -> Recipe:
    """Return the recipe ``own`` with a classifier's parameters.

    Args:
        parameters: Parameters of the constructor, by name.
        seed: Seed of all randomness.
        classes: The labels, in order, for weights by label.

    Raises:
        GLoRAError: If the parameters contradict each other.
    """
    space, architecture = parameters["search_space"], parameters["architecture"]
    epochs, size = int(parameters["epochs"]), parameters["validation_size"]
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
            training={
                "epochs": epochs,
                "warmup_epochs": epochs // 20,
                "class_weight": by_class(parameters["class_weight"], classes) or "none",
            },
            metric=METRIC_OF[parameters["scoring"]],
            search={"n_trials": int(parameters["n_trials"])},
            selection={"baselines": False},
        )
        .replace(**(parameters["settings"] or {}))
    )


def nested_names(settings: object, prefix: str = NESTED) -> dict[str, Any]:
    """Return single settings by the names that scikit-learn gives to nested parameters.

    Example:
        >>> nested_names({"training": {"lr": 0.1}, "budget": 8})
        {'settings__training__lr': 0.1, 'settings__budget': 8}
    """
    found: dict[str, Any] = {}
    # scikit-learn names the parameters also of an estimator that cannot be fitted.
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        if isinstance(value, Mapping):
            found |= nested_names(value, f"{prefix}{key}__")
        else:
            found[f"{prefix}{key}"] = value
    return found


def with_nested(settings: Mapping[str, Any], single: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with single ones changed; the given mapping stays as it is.

    Example:
        >>> with_nested({"training": {"lr": 0.1}}, {"settings__training__mixup": 0.2})
        {'training': {'lr': 0.1, 'mixup': 0.2}}
    """
    found = copy.deepcopy(dict(settings))
    for name, value in single.items():
        *tables, key = name.removeprefix(NESTED).split("__")
        place = found
        for table in tables:
            place = place.setdefault(table, {})
        place[key] = value
    return found


def resolve_seed(random_state: int | np.random.RandomState | None) -> int:
    """Return the seed, drawn from a generator or from numpy's global one for None.

    Example:
        >>> resolve_seed(7), resolve_seed(np.random.RandomState(0))
        (7, 209652396)
    """
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


@contextmanager
def study_places(
    memory: str | Path | None, storage: str | BaseStorage | None
) -> Iterator[tuple[Path, str | BaseStorage | None]]:
    """Yield the folder and the storage of a fit's study; both end with the block if none is kept.

    Example:
        >>> with study_places(None, None) as (folder, storage):
        ...     folder.is_dir(), type(storage).__name__
        (True, 'InMemoryStorage')
    """
    if memory is not None or storage is not None:
        yield Path("runs" if memory is None else memory), storage
        return
    with tempfile.TemporaryDirectory(prefix="glora-") as folder:
        yield Path(folder), InMemoryStorage()


def study_name(recipe: Recipe, *arrays: np.ndarray) -> str:
    """Return a study name that depends on recipe and arrays."""
    digest = hashlib.sha256(json.dumps(recipe.identity(), sort_keys=True, default=str).encode())
    for array in arrays:
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
