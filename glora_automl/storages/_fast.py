"""An RDB storage for trials with hundreds of parameters, on Optuna's schema.

This module and ``_schema`` alone use private parts of Optuna's RDB storage; ``_cache`` uses those
of its cache.
:func:`unsupported` checks them. Where they have changed or cannot be imported,
:func:`~glora_automl.storages.open_storage` uses Optuna's own class.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
)
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError

from glora_automl.storages._patience import lost_connection
from glora_automl.storages._pending import PendingTrial, PendingWrites
from glora_automl.storages._schema import (
    CHUNK,
    has_trials,
    parse_distribution,
    read_distributions,
    read_trials,
    start_heartbeat,
    unsupported,
    write_attrs,
    write_params,
    write_values,
)

__all__ = ["FastRDBStorage", "unsupported"]


class FastRDBStorage(RDBStorage):
    """:class:`optuna.storages.RDBStorage` that can write a trial's parameters in one transaction.

    Outside :meth:`hold` Optuna's code writes parameters and attributes. Trials are read with plain
    queries and share their distributions. With a ``heartbeat_interval``, the transaction that
    starts a trial also writes its first heartbeat, so a trial whose worker is killed at once
    becomes stale, too. The arguments are those of :class:`optuna.storages.RDBStorage`.

    Example:
        >>> import optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> storage = FastRDBStorage("sqlite://")
        >>> study = optuna.create_study(storage=storage)
        >>> def objective(trial):
        ...     with storage.hold():
        ...         xs = [trial.suggest_float(f"x{i}", 0, 1) for i in range(100)]
        ...     return sum(xs)
        >>> study.optimize(objective, n_trials=3)
        >>> [len(trial.params) for trial in study.trials]
        [100, 100, 100]
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._pending = PendingWrites()

    def __getstate__(self) -> dict[Any, Any]:
        self.flush()
        state: dict[Any, Any] = super().__getstate__()
        del state["_pending"]
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._pending = PendingWrites()

    # Pending writes

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold back this thread's writes on running trials and write them together.

        Parameters and attributes of a trial are written in one transaction at the end of the
        block, or with its state if that is set earlier. Other threads and processes see them from
        then on. If the process is killed in the block, they are lost and the trial is unfinished.

        In the block the thread reads a trial with pending writes as it was at its first write,
        plus its own writes. Writes of others are visible only if they finish the trial: it cannot
        be finished twice, and the list of trials shows it as finished. Other trials are read from
        the database.

        Writes that fail with a lost connection stay pending until the end of the block, so the
        failed call can be repeated. Writes that the database refuses raise once and are dropped.

        Raises:
            UpdateFinishedTrialError: At the end, if another worker finished a trial.
        """
        if self._pending.trials is not None:  # the outer block writes
            yield
            return
        self._pending.trials = {}
        try:
            yield
            self.flush()
        finally:
            # Writes are left only after an error, which is the one to raise.
            try:
                with suppress(Exception):
                    self.flush()
            finally:
                self._pending.trials = None

    def flush(self) -> None:
        """Write the pending writes of this thread; :meth:`hold` describes the errors."""
        for trial_id, pending in list((self._pending.trials or {}).items()):
            if pending.has_writes:
                with self._updating(trial_id):
                    pass

    def _hold_trial(self, trial_id: int) -> PendingTrial:
        """Return the pending writes of a trial; read the trial at its first write.

        Raises:
            KeyError: If the trial does not exist.
            UpdateFinishedTrialError: If the trial is finished.
        """
        assert self._pending.trials is not None
        pending = self._pending.get(trial_id) or PendingTrial(self.get_trial(trial_id))
        self.check_trial_is_updatable(trial_id, pending.trial.state)
        self._pending.trials[trial_id] = pending
        return pending

    # Writing

    @contextmanager
    def _updating(self, trial_id: int) -> Iterator[tuple[Any, Any]]:
        """Lock an unfinished trial in a transaction and write its pending writes.

        Yields:
            The session and the row of the trial.

        Raises:
            KeyError: If the trial does not exist.
            UpdateFinishedTrialError: If the trial is finished.
        """
        pending = self._pending.get(trial_id)
        try:
            with _create_scoped_session(self.scoped_session) as session:
                if self.engine.name == "sqlite":  # no SELECT FOR UPDATE, but a write locks
                    table = models.TrialModel.__table__
                    lock = sa.update(table).where(table.c.trial_id == trial_id)
                    session.execute(lock.values(number=table.c.number))
                row: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
                self.check_trial_is_updatable(trial_id, row.state)
                if pending is not None:
                    write_params(self, session, trial_id, pending.params)
                    write_attrs(self, session, trial_id, pending.user_attrs, pending.system_attrs)
                yield session, row
        except Exception as error:
            if pending is not None and not lost_connection(error):
                assert self._pending.trials is not None
                self._pending.trials.pop(trial_id, None)
            raise
        if pending is not None:
            pending.clear()

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Any
    ) -> Any:
        row: Any = super()._get_prepared_new_trial(study_id, template_trial, session)
        if row.state == TrialState.RUNNING and self.heartbeat_interval is not None:
            start_heartbeat(session, row.trial_id)
        return row

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._set_trial_param(trial_id, param_name, param_value_internal, distribution, None)

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        if self._pending.trials is None:
            super()._set_trial_param(
                trial_id, param_name, param_value_internal, distribution, previous_distribution
            )
            return
        pending = self._hold_trial(trial_id)
        # From the second trial on, the cache in front of this storage passes the distribution.
        previous = previous_distribution or self._find_distribution(trial_id, pending, param_name)
        if previous is not None:
            check_distribution_compatibility(previous, distribution)
        if param_name in pending.trial.params:  # as in Optuna, an existing parameter stays
            return
        text = distribution_to_json(distribution)
        parsed = parse_distribution(text)
        pending.trial.params[param_name] = parsed.to_external_repr(param_value_internal)
        pending.trial.distributions[param_name] = parsed
        pending.params[param_name] = (param_value_internal, text)

    def _find_distribution(
        self, trial_id: int, pending: PendingTrial, name: str
    ) -> BaseDistribution | None:
        """Return the distribution of a parameter in any trial of the study."""
        if name in pending.trial.distributions:
            return pending.trial.distributions[name]
        if len(self._pending.trials or ()) > 1:  # pending parameters of other trials count, too
            self.flush()
            pending.distributions = None
        known = pending.distributions
        if known is None or (known and name not in known):
            with _create_scoped_session(self.scoped_session) as session:
                known = read_distributions(session, trial_id, name, known)
            pending.distributions = known
        return known.get(name)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        if self._pending.trials is None:
            super().set_trial_user_attr(trial_id, key, value)
        else:
            self._hold_trial(trial_id).set_user_attr(key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        if self._pending.trials is None:
            super().set_trial_system_attr(trial_id, key, value)
        else:
            self._hold_trial(trial_id).set_system_attr(key, value)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See :class:`optuna.storages.BaseStorage`; pending writes are in the transaction."""
        pending = self._pending.get(trial_id)
        now = datetime.now()
        try:
            with self._updating(trial_id) as (session, row):
                write_values(self, session, row, values or ())
                if state == TrialState.RUNNING and row.state != TrialState.WAITING:
                    return False
                row.state = state
                if state == TrialState.RUNNING:
                    row.datetime_start = now
                    if self.heartbeat_interval is not None:
                        start_heartbeat(session, trial_id)
                if state.is_finished():
                    row.datetime_complete = now
        except IntegrityError:
            if state == TrialState.RUNNING:  # another worker took the trial
                return False
            raise
        if pending is not None:
            pending.trial.state = state
            if values is not None:
                pending.trial.values = [float(value) for value in values]
            if state == TrialState.RUNNING:
                pending.trial.datetime_start = now
            if state.is_finished():
                pending.trial.datetime_complete = now
        return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self.flush()
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        if (pending := self._pending.get(trial_id)) is not None:
            pending.trial.intermediate_values[step] = float(intermediate_value)

    def delete_study(self, study_id: int) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self.flush()
        super().delete_study(study_id)
        if self._pending.trials is not None:
            self._pending.trials.clear()  # some may be of that study

    # Reading

    def has_trials(
        self, study_id: int, finished: FrozenTrial | None, unfinished: Collection[int]
    ) -> bool:
        """Return whether a study still has trials that were read before.

        Args:
            study_id: The study.
            finished: A finished trial, which must be unchanged.
            unfinished: Ids of other trials.
        """
        with _create_scoped_session(self.scoped_session) as session:
            return has_trials(session, study_id, finished, unfinished)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See :class:`optuna.storages.BaseStorage`."""
        if (pending := self._pending.get(trial_id)) is not None:
            return pending.copy_trial()
        with _create_scoped_session(self.scoped_session) as session:
            found = read_trials(session, models.TrialModel.trial_id == trial_id)
        if not found:
            raise KeyError(models.NOT_FOUND_MSG)
        return found[trial_id]

    def get_trial_user_attrs(self, trial_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        if (pending := self._pending.get(trial_id)) is not None:
            return pending.copy_trial().user_attrs
        return dict(super().get_trial_user_attrs(trial_id))

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        if (pending := self._pending.get(trial_id)) is not None:
            return pending.copy_trial().system_attrs
        return dict(super().get_trial_system_attrs(trial_id))

    def get_trial_param(self, trial_id: int, param_name: str) -> float:
        """See :class:`optuna.storages.BaseStorage`."""
        pending = self._pending.get(trial_id)
        if pending is not None and param_name in pending.params:
            return float(pending.params[param_name][0])
        return float(super().get_trial_param(trial_id, param_name))

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        trial = models.TrialModel
        conditions = [trial.study_id == study_id]
        if states is not None:
            assert isinstance(states, Iterable)
            conditions.append(trial.state.in_(list(states)))
        with _create_scoped_session(self.scoped_session) as session:
            found = read_trials(session, *conditions, trial.trial_id > trial_id_greater_than)
            older = sorted(i for i in included_trial_ids if i <= trial_id_greater_than)
            for start in range(0, len(older), CHUNK):
                included = trial.trial_id.in_(older[start : start + CHUNK])
                found.update(read_trials(session, *conditions, included))
            if not found:
                models.StudyModel.find_or_raise_by_id(study_id, session)
        for trial_id, pending in (self._pending.trials or {}).items():
            # Not if another worker finished it, as Optuna caches finished trials.
            if trial_id in found and not found[trial_id].state.is_finished():
                found[trial_id] = pending.copy_trial()
        return [found[trial_id] for trial_id in sorted(found)]
