"""Pending writes on running trials, per thread."""

from __future__ import annotations

import copy
import json
import threading
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

__all__ = ["PendingTrial", "PendingWrites"]


@dataclass
class PendingTrial:
    """A running trial with writes that the database does not have yet.

    Attributes:
        trial: The trial with its pending writes.
        params: Pending parameters: internal value and distribution as JSON.
        user_attrs: Pending user attributes as JSON.
        system_attrs: Pending system attributes as JSON.
        distributions: Distributions of another trial of the study; None before they are read.
    """

    trial: FrozenTrial
    params: dict[str, tuple[float, str]] = field(default_factory=dict)
    user_attrs: dict[str, str] = field(default_factory=dict)
    system_attrs: dict[str, str] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] | None = None

    @property
    def has_writes(self) -> bool:
        """Whether any write is pending."""
        return bool(self.params or self.user_attrs or self.system_attrs)

    def set_user_attr(self, key: str, value: Any) -> None:
        """Set a user attribute; later changes of ``value`` have no effect."""
        self.user_attrs[key] = json.dumps(value)
        self.trial.user_attrs[key] = json.loads(self.user_attrs[key])

    def set_system_attr(self, key: str, value: Any) -> None:
        """Set a system attribute; later changes of ``value`` have no effect."""
        self.system_attrs[key] = json.dumps(value)
        self.trial.system_attrs[key] = json.loads(self.system_attrs[key])

    def clear(self) -> None:
        """Remove the pending writes after the database has them."""
        self.params.clear()
        self.user_attrs.clear()
        self.system_attrs.clear()

    def copy_trial(self) -> FrozenTrial:
        """Return a copy of the trial that the caller may change."""
        trial = copy.copy(self.trial)
        trial.params, trial.distributions = dict(trial.params), dict(trial.distributions)
        trial.user_attrs = copy.deepcopy(trial.user_attrs)
        trial.system_attrs = copy.deepcopy(trial.system_attrs)
        trial.intermediate_values = dict(trial.intermediate_values)
        trial.values = trial.values  # the setter copies the list
        return trial


class PendingWrites(threading.local):
    """The pending writes of a thread.

    Attributes:
        trials: Trials by id; None outside :meth:`FastRDBStorage.hold`.
    """

    trials: dict[int, PendingTrial] | None = None

    def get(self, trial_id: int) -> PendingTrial | None:
        """Return the pending writes of a trial, if any."""
        return (self.trials or {}).get(trial_id)
