"""AutoML for adapters: budget-constrained GLoRA search over timm models, kept in Optuna studies."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glora_automl._version import __version__

if TYPE_CHECKING:
    from glora_automl import errors
    from glora_automl.architecture import Architecture, Choice, LayerChoices, LayerShape
    from glora_automl.budget import FeasibleRegion, parse_budget
    from glora_automl.commands import SearchResult, compare, pick, resume, search
    from glora_automl.errors import GLoRAError
    from glora_automl.estimator import GLoRAClassifier
    from glora_automl.export import (
        apply,
        export_model,
        load_adapter,
        load_adapters,
        read_adapter,
        save_adapter,
    )
    from glora_automl.recipes import Recipe, list_recipes, load_recipe
    from glora_automl.search_space import (
        SearchSpace,
        SearchSpaceSpec,
        list_search_spaces,
        load_search_space,
    )
    from glora_automl.study import Comparison

__all__ = [
    "Architecture",
    "Choice",
    "Comparison",
    "FeasibleRegion",
    "GLoRAClassifier",
    "GLoRAError",
    "LayerChoices",
    "LayerShape",
    "Recipe",
    "SearchResult",
    "SearchSpace",
    "SearchSpaceSpec",
    "__version__",
    "apply",
    "compare",
    "errors",
    "export_model",
    "list_recipes",
    "list_search_spaces",
    "load_adapter",
    "load_adapters",
    "load_recipe",
    "load_search_space",
    "parse_budget",
    "pick",
    "read_adapter",
    "resume",
    "save_adapter",
    "search",
]

_HOMES = {
    "architecture": ("Architecture", "Choice", "LayerChoices", "LayerShape"),
    "budget": ("FeasibleRegion", "parse_budget"),
    "errors": ("GLoRAError",),
    "estimator": ("GLoRAClassifier",),
    "export": (
        "apply",
        "export_model",
        "load_adapter",
        "load_adapters",
        "read_adapter",
        "save_adapter",
    ),
    "search_space": ("SearchSpace", "SearchSpaceSpec", "list_search_spaces", "load_search_space"),
    "study": ("Comparison",),
    "recipes": ("Recipe", "list_recipes", "load_recipe"),
    "commands": ("SearchResult", "compare", "pick", "resume", "search"),
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
