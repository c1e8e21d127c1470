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
from glora_automl.study._suite import Suite, SuiteTask, list_suites, load_suite, suite_recipes
from glora_automl.study._suite_run import SuiteResult, run_suite, suite_result
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
    "Suite",
    "SuiteResult",
    "SuiteTask",
    "compare",
    "list_recipes",
    "list_studies",
    "list_suites",
    "load_recipe",
    "load_study",
    "load_suite",
    "override_recipe",
    "pick",
    "read_recipe",
    "resume",
    "run_suite",
    "search",
    "suite_recipes",
    "suite_result",
    "summarize",
]
