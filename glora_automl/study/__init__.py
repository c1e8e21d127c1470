"""Recipes and the studies that they become: create, resume, search, select, compare."""

from glora_automl.study._compare import Comparison, RankCorrelation, compare
from glora_automl.study._overrides import override_recipe
from glora_automl.study._pick import pick
from glora_automl.study._recipe import (
    Recipe,
    SearchSettings,
    SelectionSettings,
    list_recipes,
    load_recipe,
)
from glora_automl.study._result import Row, Selection
from glora_automl.study._search import SearchResult, resume, search
from glora_automl.study._study import FORMAT, load_study, read_recipe
from glora_automl.study._summary import list_studies, summarize

__all__ = [
    "FORMAT",
    "Comparison",
    "RankCorrelation",
    "Recipe",
    "Row",
    "SearchResult",
    "SearchSettings",
    "Selection",
    "SelectionSettings",
    "compare",
    "list_recipes",
    "list_studies",
    "load_recipe",
    "load_study",
    "override_recipe",
    "pick",
    "read_recipe",
    "resume",
    "search",
    "summarize",
]
