"""A storage that waits for its database to come back."""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, _CachedStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from glora_automl.errors import Stopped

__all__ = ["PatientStorage", "lost_connection"]

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 2.0
"""Shorter than a heartbeat, which must go on soon after the database is back."""


def lost_connection(error: BaseException) -> bool:
    """Whether an error of a database may pass by itself: it is away, restarting or too busy.

    SQLite is a file: of its errors only those of a lock pass, a full disk or a missing permission
    stays.

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
    """A method of Optuna's cached storage that is tried again while the database is away."""

    @functools.wraps(method)
    def call(self: PatientStorage, *arguments: Any, **keywords: Any) -> _Result:
        return self._try(lambda: method(self, *arguments, **keywords))

    return call


class PatientStorage(_CachedStorage):
    """Optuna's cached RDB storage, each call of which is tried again while the database is away.

    Calls may be repeated although the database did what they asked and only its answer was lost.
    A finished state that was set already counts as set, and a trial is not created twice if its
    template has system attributes that no other trial has. A trial that was taken from the queue
    may be left running by nobody.

    Args:
        backend: The storage of the database.
        patience: Seconds for which a call is tried again; then its error is raised.

    Attributes:
        last_trouble: When a call failed last, by the monotonic clock.
        stop: Asked while it waits whether to give up.

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
        self, call: Callable[[], _Result], again: Callable[[], _Result] | None = None
    ) -> _Result:
        """Call until the database answers; ``again`` is what is called after the first loss."""
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
                        "The database does not answer; trying again for %.0f s.", self.patience
                    )
            # Not all at once: many workers have lost the same database.
            time.sleep(min(delay * random.uniform(0.5, 1.0), left))
            delay = min(2 * delay, _LONGEST_DELAY)
            call = again or call

    def hold(self) -> AbstractContextManager[None]:
        """A block in which a trial's parameters and attributes are written together.

        See ``FastRDBStorage.hold``; nothing changes where the database's storage has no such block.
        """
        hold: Callable[[], AbstractContextManager[None]] | None = getattr(
            self._backend, "hold", None
        )
        return nullcontext() if hold is None else self._patient_hold(hold())

    @contextmanager
    def _patient_hold(self, block: AbstractContextManager[None]) -> Iterator[None]:
        with block:
            yield
            flush: Callable[[], None] = self._backend._flush  # type: ignore[attr-defined]
            self._try(flush)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See :class:`optuna.storages.BaseStorage`."""

        def call() -> int:
            return super(PatientStorage, self).create_new_trial(study_id, template_trial)

        def again() -> int:
            named = {} if template_trial is None else template_trial.system_attrs
            for trial in self.get_all_trials(study_id, deepcopy=False):
                if named and trial.system_attrs == named and not trial.state.is_finished():
                    return trial._trial_id  # created by the call whose answer was lost
            return call()

        return self._try(call, again)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See :class:`optuna.storages.BaseStorage`."""

        def call() -> bool:
            return super(PatientStorage, self).set_trial_state_values(trial_id, state, values)

        def again() -> bool:
            try:
                return call()
            except UpdateFinishedTrialError:
                found = self.get_trial(trial_id)
                wanted = None if values is None else list(values)
                if (found.state, found.values) == (state, wanted):
                    return True  # it was set by the call whose answer was lost
                raise

        return self._try(call, again)

    create_new_study = _patient(_CachedStorage.create_new_study)
    delete_study = _patient(_CachedStorage.delete_study)
    set_study_user_attr = _patient(_CachedStorage.set_study_user_attr)
    set_study_system_attr = _patient(_CachedStorage.set_study_system_attr)
    get_study_id_from_name = _patient(_CachedStorage.get_study_id_from_name)
    get_study_name_from_id = _patient(_CachedStorage.get_study_name_from_id)
    get_study_directions = _patient(_CachedStorage.get_study_directions)
    get_study_user_attrs = _patient(_CachedStorage.get_study_user_attrs)
    get_study_system_attrs = _patient(_CachedStorage.get_study_system_attrs)
    get_all_studies = _patient(_CachedStorage.get_all_studies)
    set_trial_param = _patient(_CachedStorage.set_trial_param)
    set_trial_intermediate_value = _patient(_CachedStorage.set_trial_intermediate_value)
    set_trial_user_attr = _patient(_CachedStorage.set_trial_user_attr)
    set_trial_system_attr = _patient(_CachedStorage.set_trial_system_attr)
    get_trial = _patient(_CachedStorage.get_trial)
    get_all_trials = _patient(_CachedStorage.get_all_trials)
    get_best_trial = _patient(_CachedStorage.get_best_trial)
    get_trial_id_from_study_id_trial_number = _patient(
        _CachedStorage.get_trial_id_from_study_id_trial_number
    )
    record_heartbeat = _patient(_CachedStorage.record_heartbeat)
    _get_stale_trial_ids = _patient(_CachedStorage._get_stale_trial_ids)
