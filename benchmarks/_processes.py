"""Processes of a benchmark: a server that has imported torch once forks them in a moment."""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["glora_automl.cli", "glora_automl.report", "glora_automl.study", "timm", "sklearn"]
)
