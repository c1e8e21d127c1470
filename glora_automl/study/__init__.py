"""Recipes and the studies that they become: create, resume, search, select, compare."""

from glora_automl.study._ledger import STAGES, Cost, ledger
from glora_automl.study._recipe import (
    Recipe,
    SearchSettings,
    SelectionSettings,
    list_recipes,
    load_recipe,
)
from glora_automl.study._result import Row, Selection
from glora_automl.study._search import SearchResult, resume, search
from glora_automl.study._stages import stage_study_name
from glora_automl.study._study import (
    FORMAT,
    get_attribute,
    get_setting,
    is_ours,
    load_study,
    read_recipe,
    read_space,
)
from glora_automl.study._summary import list_studies, summarize

__all__ = [
    "FORMAT",
    "STAGES",
    "Cost",
    "Recipe",
    "Row",
    "SearchResult",
    "SearchSettings",
    "Selection",
    "SelectionSettings",
    "get_attribute",
    "get_setting",
    "is_ours",
    "ledger",
    "list_recipes",
    "list_studies",
    "load_recipe",
    "load_study",
    "read_recipe",
    "read_space",
    "resume",
    "search",
    "stage_study_name",
    "summarize",
]
