"""Recipes and the studies that they become: create, resume, search, select, compare."""

from glora_automl.study._alone import alone
from glora_automl.study._best import CONSTRAINT, best_of, front_of, objective_name
from glora_automl.study._chosen import find_architecture, parse_trial
from glora_automl.study._compare import compare, random_study_name
from glora_automl.study._comparison import Comparison, RankCorrelation
from glora_automl.study._given import READY, read_given
from glora_automl.study._join import find, join
from glora_automl.study._layers import LayerGroup, list_layers
from glora_automl.study._ledger import STAGES, Cost, ledger
from glora_automl.study._overrides import override_recipe
from glora_automl.study._pick import pick
from glora_automl.study._recipe import (
    Recipe,
    SearchSettings,
    SelectionSettings,
    list_recipes,
    load_recipe,
)
from glora_automl.study._result import CONTROLS_ASIDE, Row, Selection, best_row
from glora_automl.study._run import Run
from glora_automl.study._search import SearchResult, resume, search
from glora_automl.study._setup import resolve_device
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
from glora_automl.study._suite import Suite, SuiteTask, list_suites, load_suite, suite_recipes
from glora_automl.study._suite_run import SuiteResult, run_suite, suite_result
from glora_automl.study._summary import list_studies, summarize
from glora_automl.study._weights import fetch_supernet, load_backbone

__all__ = [
    "CONSTRAINT",
    "CONTROLS_ASIDE",
    "FORMAT",
    "READY",
    "STAGES",
    "Comparison",
    "Cost",
    "LayerGroup",
    "RankCorrelation",
    "Recipe",
    "Row",
    "Run",
    "SearchResult",
    "SearchSettings",
    "Selection",
    "SelectionSettings",
    "Suite",
    "SuiteResult",
    "SuiteTask",
    "alone",
    "best_of",
    "best_row",
    "compare",
    "fetch_supernet",
    "find",
    "find_architecture",
    "front_of",
    "get_attribute",
    "get_setting",
    "is_ours",
    "join",
    "ledger",
    "list_layers",
    "list_recipes",
    "list_studies",
    "list_suites",
    "load_backbone",
    "load_recipe",
    "load_study",
    "load_suite",
    "objective_name",
    "override_recipe",
    "parse_trial",
    "pick",
    "random_study_name",
    "read_given",
    "read_recipe",
    "read_space",
    "resolve_device",
    "resume",
    "run_suite",
    "search",
    "stage_study_name",
    "suite_recipes",
    "suite_result",
    "summarize",
]
