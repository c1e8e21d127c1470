"""AutoML for adapters: budget-constrained GLoRA search over timm models, kept in Optuna studies."""

from typing import TYPE_CHECKING

from glora_automl._lazy import lazy_names
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

__getattr__, __dir__ = lazy_names(__name__)
