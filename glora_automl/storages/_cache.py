"""Optuna's cache of trials, checked against the database.

This module alone uses private parts of Optuna's cache. Where they have changed, and without
:meth:`~glora_automl.storages._fast.FastRDBStorage.has_trials`, the cache is Optuna's own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage, _CachedStorage
from optuna.trial import FrozenTrial

__all__ = ["CheckedCache"]

_logger = logging.getLogger(__name__)

_Check = Callable[[int, FrozenTrial | None, Collection[int]], bool]


class CheckedCache(_CachedStorage):
    """Optuna's cached RDB storage, which drops what the database has lost.

    Optuna reads a finished trial once. If a study is deleted and its id is used again, or if an
    older backup of the database is restored, the cache would keep trials that no longer exist, and
    a running one of them would be waited for without end.

    The trial that finished last tells: an older backup and another study do not have it. Each
    unfinished trial is looked up, too.

    Args:
        backend: The storage of the database.
    """

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        self._last_finished: dict[int, FrozenTrial] = {}
        self._check: _Check | None = getattr(backend, "has_trials", None)
        if not set(vars(self)) >= _PARTS or not set(_study_parts()) >= _STUDY_PARTS:
            self._check = None

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        if self._check is not None:
            with self._lock:
                known = self._studies.get(study_id)
                last = self._last_finished.get(study_id)
                unfinished = () if known is None else known.unfinished_trial_ids
                if (last or unfinished) and not self._check(study_id, last, unfinished):
                    _logger.warning(
                        "The database has lost trials of a study that was deleted or replaced by "
                        "a backup. Reading it again."
                    )
                    self._forget(study_id)
        super()._read_trials_from_remote_storage(study_id)

    def _forget(self, study_id: int) -> None:
        for trial in self._studies.pop(study_id).trials.values():
            self._trial_id_to_study_id_and_number.pop(trial._trial_id, None)
            self._study_id_and_number_to_trial_id.pop((study_id, trial.number), None)
        self._last_finished.pop(study_id, None)

    def _add_trials_to_cache(self, study_id: int, trials: list[FrozenTrial]) -> None:
        super()._add_trials_to_cache(study_id, trials)
        last = self._last_finished.get(study_id)
        for trial in trials:
            done = trial.datetime_complete
            if done is not None and (last is None or done > (last.datetime_complete or done)):
                last = self._last_finished[study_id] = trial

    def delete_study(self, study_id: int) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._last_finished.pop(study_id, None)
        super().delete_study(study_id)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        if self._check is not None and trial_id not in self._trial_id_to_study_id_and_number:
            self.get_trial(trial_id)  # raises Optuna's error, if the trial was lost
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`; without the trial's parameters."""
        return self._backend.get_trial_system_attrs(trial_id)


_PARTS = {
    "_studies",
    "_lock",
    "_trial_id_to_study_id_and_number",
    "_study_id_and_number_to_trial_id",
}
_STUDY_PARTS = {"trials", "unfinished_trial_ids"}


def _study_parts() -> list[str]:
    try:
        from optuna.storages._cached_storage import _StudyInfo

        return list(vars(_StudyInfo()))
    except (ImportError, TypeError):
        return []
