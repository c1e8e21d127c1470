"""AutoML for adapters: budget-constrained GLoRA search over timm models, kept in Optuna studies."""

from glora_automl import errors
from glora_automl._version import __version__
from glora_automl.architecture import Architecture, Choice, LayerChoices, LayerShape
from glora_automl.budget import FeasibleRegion, parse_budget
from glora_automl.errors import GLoRAError
from glora_automl.search_space import (
    SearchSpace,
    SearchSpaceSpec,
    list_search_spaces,
    load_search_space,
)
from glora_automl.study import Recipe, SearchResult, list_recipes, load_recipe, search

__all__ = [
    "Architecture",
    "Choice",
    "FeasibleRegion",
    "GLoRAError",
    "LayerChoices",
    "LayerShape",
    "Recipe",
    "SearchResult",
    "SearchSpace",
    "SearchSpaceSpec",
    "__version__",
    "errors",
    "list_recipes",
    "list_search_spaces",
    "load_recipe",
    "load_search_space",
    "parse_budget",
    "search",
]
