"""Processes of a benchmark: a server that has imported torch once forks them in a moment."""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "glora_automl.cli",
        "glora_automl.report",
        "glora_automl.storages._fast",
        "glora_automl.commands",
        # What these import late, and each process would import again.
        "alembic.command",
        "plotly.graph_objs._figure",
        "psycopg",
        "sklearn.datasets",
        "sqlalchemy.dialects.postgresql",
        "timm",
    ]
)
