"""AutoML for adapters: budget-constrained GLoRA search over timm models, kept in Optuna studies."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glora_automl._version import __version__

if TYPE_CHECKING:
    from glora_automl import errors
    from glora_automl.architecture import Architecture, Choice, LayerChoices, LayerShape
    from glora_automl.budget import Budget, FeasibleRegion
    from glora_automl.commands import (
        SearchResult,
        compare,
        resume,
        run_suite,
        search,
        select,
        train,
    )
    from glora_automl.errors import GLoRAError
    from glora_automl.estimator import GLoRAClassifier
    from glora_automl.export import (
        export_model,
        load_adapter,
        load_adapters,
        predict,
        read_adapter,
        save_adapter,
    )
    from glora_automl.pipeline import Objective, Workspace
    from glora_automl.problem import AdapterProblem
    from glora_automl.recipes import Recipe, list_recipes, load_recipe
    from glora_automl.search_space import (
        SearchSpace,
        SearchSpaceSpec,
        list_search_spaces,
        load_search_space,
    )
    from glora_automl.study import Comparison

__all__ = [
    "AdapterProblem",
    "Architecture",
    "Budget",
    "Choice",
    "Comparison",
    "FeasibleRegion",
    "GLoRAClassifier",
    "GLoRAError",
    "LayerChoices",
    "LayerShape",
    "Objective",
    "Recipe",
    "SearchResult",
    "SearchSpace",
    "SearchSpaceSpec",
    "Workspace",
    "__version__",
    "compare",
    "errors",
    "export_model",
    "list_recipes",
    "list_search_spaces",
    "load_adapter",
    "load_adapters",
    "load_recipe",
    "load_search_space",
    "predict",
    "read_adapter",
    "resume",
    "run_suite",
    "save_adapter",
    "search",
    "select",
    "train",
]

_HOMES = {
    "architecture": ("Architecture", "Choice", "LayerChoices", "LayerShape"),
    "budget": ("Budget", "FeasibleRegion"),
    "errors": ("GLoRAError",),
    "estimator": ("GLoRAClassifier",),
    "export": (
        "export_model",
        "load_adapter",
        "load_adapters",
        "predict",
        "read_adapter",
        "save_adapter",
    ),
    "search_space": ("SearchSpace", "SearchSpaceSpec", "list_search_spaces", "load_search_space"),
    "study": ("Comparison",),
    "recipes": ("Recipe", "list_recipes", "load_recipe"),
    "commands": ("SearchResult", "compare", "resume", "run_suite", "search", "select", "train"),
    "pipeline": ("Objective", "Workspace"),
    "problem": ("AdapterProblem",),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds, ``--help`` must not."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"glora_automl.{module}"), name)
        if name == module:
            return import_module(f"glora_automl.{module}")
    raise AttributeError(f"module 'glora_automl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
