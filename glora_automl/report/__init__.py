"""Reports of a study: tables, pictures, note, HTML page and dashboard."""

from typing import TYPE_CHECKING

from glora_automl._lazy import lazy_names

if TYPE_CHECKING:
    from glora_automl.report._backbones import ranking_table
    from glora_automl.report._classes import (
        class_table,
        classes_title,
        confusion_table,
        matrix_table,
    )
    from glora_automl.report._cost import cost_table
    from glora_automl.report._dashboard import DashboardServer, dashboard_app, open_server
    from glora_automl.report._gallery import PICTURES, pictures
    from glora_automl.report._html import save_pictures, save_report
    from glora_automl.report._importance import importance_picture
    from glora_automl.report._ladder import ladder_lines, ladder_table
    from glora_automl.report._matplotlib import to_matplotlib
    from glora_automl.report._note import front_table, markdown_note, markdown_study
    from glora_automl.report._picture import Picture
    from glora_automl.report._plotly import to_figure
    from glora_automl.report._projection import (
        GROUPINGS,
        Counts,
        Grouping,
        check_grouping,
        group_of,
        project_study,
    )
    from glora_automl.report._publish import publish
    from glora_automl.report._snapshot import Snapshot
    from glora_automl.report._suites import save_suite, suite_table
    from glora_automl.report._tables import (
        TextTable,
        accuracy_text,
        correlation_text,
        grid_blocks,
        metric_title,
        plain_table,
        result_table,
    )

__all__ = [
    "GROUPINGS",
    "PICTURES",
    "Counts",
    "DashboardServer",
    "Grouping",
    "Picture",
    "Snapshot",
    "TextTable",
    "accuracy_text",
    "check_grouping",
    "class_table",
    "classes_title",
    "confusion_table",
    "correlation_text",
    "cost_table",
    "dashboard_app",
    "front_table",
    "grid_blocks",
    "group_of",
    "importance_picture",
    "ladder_lines",
    "ladder_table",
    "markdown_note",
    "markdown_study",
    "matrix_table",
    "metric_title",
    "open_server",
    "pictures",
    "plain_table",
    "project_study",
    "publish",
    "ranking_table",
    "result_table",
    "save_pictures",
    "save_report",
    "save_suite",
    "suite_table",
    "to_figure",
    "to_matplotlib",
]

__getattr__, __dir__ = lazy_names(__name__)
