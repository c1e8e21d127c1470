"""The verbs: search, resume, train, select, compare, suite."""

from glora_automl.commands._compare import compare, random_study_name
from glora_automl.commands._search import SearchResult, resume, search, train
from glora_automl.commands._select import select
from glora_automl.commands._suite import SuiteResult, run_suite, suite_result

__all__ = [
    "SearchResult",
    "SuiteResult",
    "compare",
    "random_study_name",
    "resume",
    "run_suite",
    "search",
    "select",
    "suite_result",
    "train",
]
