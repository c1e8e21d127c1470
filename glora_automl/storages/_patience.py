"""A storage that retries its calls while the database is unreachable."""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from glora_automl.errors import Stopped
from glora_automl.storages._cache import CheckedCache

__all__ = ["PatientStorage", "lost_connection"]

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_FIRST_DELAY = 0.1
_MAX_DELAY = 2.0
"""Shorter than a heartbeat interval, so that heartbeats resume in time."""


def lost_connection(error: BaseException) -> bool:
    """Return whether a database error may be temporary: unreachable, restarting or busy.

    Of SQLite's errors only those of a lock are temporary, as SQLite is a file.

    Example:
        >>> import sqlite3
        >>> locked = sqlite3.OperationalError("database is locked")
        >>> locked.sqlite_errorname = "SQLITE_BUSY"
        >>> lost_connection(OperationalError("select 1", None, locked))
        True
        >>> lost_connection(OperationalError("select 1", None, sqlite3.OperationalError("full")))
        False
    """
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if not isinstance(error, SQLAlchemyError):
        return False
    if isinstance(error, DBAPIError):
        if type(error.orig).__module__.startswith("sqlite3"):
            name = str(getattr(error.orig, "sqlite_errorname", ""))
            return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
        if error.connection_invalidated:
            return True
    return isinstance(error, OperationalError | InterfaceError | PoolTimeoutError)


def _patient(method: Callable[..., _Result]) -> Callable[..., _Result]:
    """Return a method that is retried while the database is unreachable."""

    @functools.wraps(method)
    def call(self: PatientStorage, *arguments: Any, **keywords: Any) -> _Result:
        return self._try(lambda: method(self, *arguments, **keywords))

    return call


class PatientStorage(CheckedCache):
    """A cached RDB storage, whose calls are retried while the database is unreachable.

    A call may be retried although the database has done it and only the answer was lost. A state
    that is already set counts as set. A trial is not created twice if its template has system
    attributes that no other trial has.

    Args:
        backend: The storage of the database.
        patience: Seconds of retries before the error is raised.

    Attributes:
        last_trouble: Monotonic time of the last failed call.
        stop: Returns whether to stop waiting.

    Example:
        >>> import optuna
        >>> study = optuna.create_study(storage=PatientStorage(RDBStorage("sqlite://")))
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
        >>> len(study.trials)
        2
    """

    def __init__(self, backend: RDBStorage, patience: float = 300.0) -> None:
        super().__init__(backend)
        self.patience = patience
        self.last_trouble = float("-inf")
        self.stop: Callable[[], bool] | None = None

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "stop": None}

    @property
    def engine(self) -> Engine:
        """The database's SQLAlchemy engine."""
        return self._backend.engine

    def _try(
        self, call: Callable[[], _Result], retry: Callable[[], _Result] | None = None
    ) -> _Result:
        """Call until the database answers; after the first failure call ``retry`` instead."""
        end = time.monotonic() + self.patience
        delay = _FIRST_DELAY
        while True:
            try:
                return call()
            except (StorageInternalError, SQLAlchemyError) as error:
                self.last_trouble = time.monotonic()
                left = end - time.monotonic()
                if left <= 0 or not lost_connection(error):
                    raise
                if self.stop is not None and self.stop():
                    raise Stopped("The database does not answer.") from error
                if delay == _FIRST_DELAY:
                    _logger.warning(
                        "The database does not answer. Retrying for %.0f s.", self.patience
                    )
            # A random delay, as many workers lose the same database at once.
            time.sleep(min(delay * random.uniform(0.5, 1.0), left))
            delay = min(2 * delay, _MAX_DELAY)
            call = retry or call

    def hold(self) -> AbstractContextManager[None]:
        """Write the parameters and attributes of a trial together at the end of a block.

        The block has no effect if the backend has no ``hold``, as ``FastRDBStorage`` has.
        """
        hold: Callable[[], AbstractContextManager[None]] | None = getattr(
            self._backend, "hold", None
        )
        return nullcontext() if hold is None else self._patient_hold(hold())

    @contextmanager
    def _patient_hold(self, block: AbstractContextManager[None]) -> Iterator[None]:
        with block:
            yield
            flush: Callable[[], None] = self._backend.flush  # type: ignore[attr-defined]
            self._try(flush)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See :class:`optuna.storages.BaseStorage`."""

        def call() -> int:
            return super(PatientStorage, self).create_new_trial(study_id, template_trial)

        def retry() -> int:
            attrs = {} if template_trial is None else template_trial.system_attrs
            for trial in self.get_all_trials(study_id, deepcopy=False):
                if attrs and trial.system_attrs == attrs and not trial.state.is_finished():
                    return trial._trial_id  # created by the failed call
            return call()

        return self._try(call, retry)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See :class:`optuna.storages.BaseStorage`."""

        def call() -> bool:
            return super(PatientStorage, self).set_trial_state_values(trial_id, state, values)

        def retry() -> bool:
            try:
                return call()
            except UpdateFinishedTrialError:
                found = self.get_trial(trial_id)
                expected = None if values is None else list(values)
                if (found.state, found.values) == (state, expected):
                    return True  # set by the failed call
                raise

        return self._try(call, retry)

    create_new_study = _patient(CheckedCache.create_new_study)
    delete_study = _patient(CheckedCache.delete_study)
    set_study_user_attr = _patient(CheckedCache.set_study_user_attr)
    set_study_system_attr = _patient(CheckedCache.set_study_system_attr)
    get_study_id_from_name = _patient(CheckedCache.get_study_id_from_name)
    get_study_name_from_id = _patient(CheckedCache.get_study_name_from_id)
    get_study_directions = _patient(CheckedCache.get_study_directions)
    get_study_user_attrs = _patient(CheckedCache.get_study_user_attrs)
    get_study_system_attrs = _patient(CheckedCache.get_study_system_attrs)
    get_all_studies = _patient(CheckedCache.get_all_studies)
    set_trial_param = _patient(CheckedCache.set_trial_param)
    set_trial_intermediate_value = _patient(CheckedCache.set_trial_intermediate_value)
    set_trial_user_attr = _patient(CheckedCache.set_trial_user_attr)
    set_trial_system_attr = _patient(CheckedCache.set_trial_system_attr)
    get_trial = _patient(CheckedCache.get_trial)
    get_trial_system_attrs = _patient(CheckedCache.get_trial_system_attrs)
    get_all_trials = _patient(CheckedCache.get_all_trials)
    get_best_trial = _patient(CheckedCache.get_best_trial)
    get_trial_id_from_study_id_trial_number = _patient(
        CheckedCache.get_trial_id_from_study_id_trial_number
    )
    record_heartbeat = _patient(CheckedCache.record_heartbeat)
    _get_stale_trial_ids = _patient(CheckedCache._get_stale_trial_ids)
