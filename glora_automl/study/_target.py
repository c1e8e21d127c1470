"""More or fewer trials for a study: its target, and what counts after it was raised."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial

from glora_automl.study._load import get_setting, kept_settings, set_attribute
from glora_automl.study._stages import REOPENED, StageName

__all__ = ["attempt_counts", "set_target"]


def attempt_counts(study: optuna.Study, attempt: FrozenTrial) -> bool:
    """Return whether an attempt at a stage counts: a reopened study is selected from again."""
    stage = StageName.parse(str(attempt.user_attrs["stage"])).stage
    return stage not in REOPENED or attempt.number >= get_setting(study, "reopened")


def set_target(study: optuna.Study, n_trials: int) -> None:
    """Write the number of complete trials that a study is to have; its recipe stays."""
    set_attribute(study, "settings", {**kept_settings(study), "target": n_trials})
