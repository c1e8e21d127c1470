"""Recipes and the studies that they become: create, resume, search, select, compare."""

from glora_automl.study._layers import LayerGroup, list_layers
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
    "LayerGroup",
    "Recipe",
    "Row",
    "SearchResult",
    "SearchSettings",
    "Selection",
    "SelectionSettings",
    "list_layers",
    "list_recipes",
    "list_studies",
    "load_recipe",
    "load_study",
    "read_recipe",
    "resume",
    "search",
    "summarize",
]
