"""``glora resume``."""

from __future__ import annotations

from typing import Any

from glora_automl.cli._options import (
    AsJson,
    NTrials,
    StudyName,
    Timeout,
    read_timeout,
    with_workspace,
)
from glora_automl.cli._output import print_found

__all__ = ["resume"]


@with_workspace(leave_out=("heartbeat",))
def resume(
    workspace: Any,
    name: StudyName,
    n_trials: NTrials = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Continue a study, on any machine that reaches its storage and its artifacts."""
    from glora_automl import commands

    seconds = read_timeout(timeout)
    result = commands.resume(name, n_trials=n_trials, timeout=seconds, workspace=workspace)
    print_found(result, workspace, as_json)
