"""What a person sees of a study."""

from glora_automl.report._dashboard import DashboardServer, dashboard_app, open_server
from glora_automl.report._projection import (
    GROUPINGS,
    Counts,
    Grouping,
    check_grouping,
    group_of,
    project_study,
)
from glora_automl.report._tables import accuracy_text, result_table

__all__ = [
    "GROUPINGS",
    "Counts",
    "DashboardServer",
    "Grouping",
    "accuracy_text",
    "check_grouping",
    "dashboard_app",
    "group_of",
    "open_server",
    "project_study",
    "result_table",
]
