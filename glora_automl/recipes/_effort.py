"""Effort: how much of a search's work a user wants to pay for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from glora_automl.errors import RecipeError
from glora_automl.recipes._recipe import Recipe

__all__ = ["EFFORTS", "with_effort"]

EFFORTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "low": {
            "tune": {"n_trials": 0},
            "supernet": {"epochs_ratio": 0.35},
            "search": {"n_trials": 40},
            "selection": {
                "n_candidates": 1,
                "epochs_ratio": 0.0,
                "refit_epochs_ratio": 0.75,
                "baselines": False,
            },
        },
        "medium": {
            # Length is worth more than settings here: docs/how-to/effort.md.
            "tune": {"n_trials": 0},
            "supernet": {"epochs_ratio": 1.0},
            "search": {"n_trials": 100},
            "selection": {
                "n_candidates": 2,
                "epochs_ratio": 0.25,
                "refit_epochs_ratio": 1.25,
                "baselines": False,
            },
        },
        "high": {
            "tune": {"n_trials": 12, "portfolio": 7, "epochs_ratio": 0.25},
            "supernet": {"epochs_ratio": 1.25},
            "search": {"n_trials": 200},
            "selection": {
                "n_candidates": 3,
                "epochs_ratio": 0.25,
                "refit_epochs_ratio": 2.5,
                "baselines": False,
            },
        },
    }
)
"""Settings by effort: about 1, 3 and 8 LoRA trainings in all, without baselines."""


def with_effort(recipe: Recipe, effort: str) -> Recipe:
    """Return the recipe with the lengths of all stages for an effort.

    Args:
        recipe: A recipe.
        effort: ``low``, ``medium`` or ``high``: about 1, 3 and 8 trainings of LoRA.

    Raises:
        RecipeError: If there is no such effort.

    Example:
        >>> from glora_automl.recipes import load_recipe
        >>> with_effort(load_recipe("digits"), "low").selection.refit_epochs_ratio
        0.75
    """
    if effort not in EFFORTS:
        raise RecipeError(
            f"effort must be one of {', '.join(EFFORTS)}, got {effort[:40]!r}. Correct `effort`."
        )
    return recipe.replace(**EFFORTS[effort])
