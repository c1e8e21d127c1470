"""What a person sees of a study."""

from glora_automl.report._suites import save_suite, suite_table
from glora_automl.report._tables import (
    accuracy_text,
    correlation_text,
    front_table,
    result_table,
)

__all__ = [
    "accuracy_text",
    "correlation_text",
    "front_table",
    "result_table",
    "save_suite",
    "suite_table",
]
