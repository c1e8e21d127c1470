"""The verbs: search, resume, select, compare, suite."""

from glora_automl.commands._compare import compare, random_study_name
from glora_automl.commands._search import SearchResult, resume, search
from glora_automl.commands._select import pick
from glora_automl.commands._suite import SuiteResult, run_suite, suite_result

__all__ = [
    "SearchResult",
    "SuiteResult",
    "compare",
    "pick",
    "random_study_name",
    "resume",
    "run_suite",
    "search",
    "suite_result",
]
