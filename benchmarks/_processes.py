"""Processes of a benchmark, forked by a server that has imported torch once."""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "glora_automl.cli",
        "glora_automl.report",
        "glora_automl.storages._fast",
        "glora_automl.commands",
        # Late imports of these packages, which each process would repeat.
        "alembic.command",
        "plotly.graph_objs._figure",
        "psycopg",
        "sklearn.datasets",
        "sqlalchemy.dialects.postgresql",
        "timm",
    ]
)
