"""Declarations of a user: recipes, changes to them, suites."""

from glora_automl.recipes._effort import EFFORTS, with_effort
from glora_automl.recipes._overrides import override_recipe, with_data
from glora_automl.recipes._recipe import NAME, Recipe, list_recipes, load_recipe, parse_recipe
from glora_automl.recipes._settings import SearchSettings, SelectionSettings, SupernetSettings
from glora_automl.recipes._suite import Suite, SuiteTask, list_suites, load_suite, suite_recipes
from glora_automl.recipes._toml import write_toml
from glora_automl.recipes._tuning import Range, TuneSettings, load_portfolio, nested

__all__ = [
    "EFFORTS",
    "NAME",
    "Range",
    "Recipe",
    "SearchSettings",
    "SelectionSettings",
    "Suite",
    "SuiteTask",
    "SupernetSettings",
    "TuneSettings",
    "list_recipes",
    "list_suites",
    "load_portfolio",
    "load_recipe",
    "load_suite",
    "nested",
    "override_recipe",
    "parse_recipe",
    "suite_recipes",
    "with_data",
    "with_effort",
    "write_toml",
]
