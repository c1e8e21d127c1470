"""An RDB storage for trials with hundreds of parameters, on Optuna's schema.

With ``_schema`` the only module that touches private parts of Optuna's storage;
:func:`unsupported` says whether they are as expected, and
:func:`~glora_automl.storages.open_storage` falls back to Optuna's own class where they are not or
where this module cannot even be imported.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from glora_automl.storages._patience import lost_connection
from glora_automl.storages._schema import CHUNK, parse_distribution, read_trials, unsupported

__all__ = ["FastRDBStorage", "unsupported"]

_INSERT: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
"""Inserts that know what to do with rows that are there; other databases use Optuna's writes."""


@dataclass
class _Held:
    """A running trial in a block: as this thread sees it, and what is not written yet.

    Distributions and attributes are held as the texts that are written.
    """

    trial: FrozenTrial
    params: dict[str, tuple[float, str]] = field(default_factory=dict)
    user_attrs: dict[str, str] = field(default_factory=dict)
    system_attrs: dict[str, str] = field(default_factory=dict)
    previous: dict[str, BaseDistribution] | None = None
    """Distributions of another trial of the study, once they were asked for."""

    def clear(self) -> None:
        """Forget what has been written."""
        for held in (self.params, self.user_attrs, self.system_attrs):
            held.clear()

    def copy(self) -> FrozenTrial:
        """A copy of the trial for a caller, who may change it."""
        trial = copy.copy(self.trial)
        trial.params, trial.distributions = dict(trial.params), dict(trial.distributions)
        trial.user_attrs = copy.deepcopy(trial.user_attrs)
        trial.system_attrs = copy.deepcopy(trial.system_attrs)
        trial.intermediate_values = dict(trial.intermediate_values)
        trial.values = trial.values
        return trial


class _Thread(threading.local):
    """What a thread holds back; ``trials`` is None outside of :meth:`FastRDBStorage.hold`."""

    trials: dict[int, _Held] | None = None


class FastRDBStorage(RDBStorage):
    """:class:`optuna.storages.RDBStorage` that can write a trial's parameters in one transaction.

    Outside of :meth:`hold` parameters and attributes are written by Optuna's own code. Trials are
    read with plain queries and share their distribution objects. With a ``heartbeat_interval`` a
    trial has its first heartbeat from the transaction on that sets it running, so one whose worker
    is killed right then is found stale, too. Arguments are those of
    :class:`optuna.storages.RDBStorage`.

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
        self._thread = _Thread()

    def __getstate__(self) -> dict[Any, Any]:
        self._flush()
        state: dict[Any, Any] = super().__getstate__()
        del state["_thread"]
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._thread = _Thread()

    # Holding back

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold back what this thread sets on running trials, and write it together.

        Parameters and attributes of a trial are written in one transaction at the end of the
        block, or together with its state if that is set before. Other threads and processes see
        them from then on. A process that is killed in the block loses them; its trial is
        unfinished then.

        In the block this thread sees a trial on which it has set something as it was when the
        first thing was set, with all that it has set since; what others change on the trial
        meanwhile it does not see, unless they finish it: it cannot be finished twice, and a list
        of the study's trials shows the truth. All other trials are read as they are.

        What cannot be written as the connection is lost stays held back until the block's end, so
        the call that failed can be repeated; what the database refuses is told once and dropped.

        Raises:
            UpdateFinishedTrialError: At the end, if somebody has finished a trial meanwhile.
        """
        if self._thread.trials is not None:  # the outer block writes
            yield
            return
        self._thread.trials = {}
        try:
            yield
            self._flush()
        finally:
            # Something is left only if the block ended by an error: that one is told.
            try:
                with suppress(Exception):
                    self._flush()
            finally:
                self._thread.trials = None

    def _flush(self) -> None:
        """Write what this thread holds back; :meth:`hold` says what becomes of it on an error."""
        for trial_id, held in list((self._thread.trials or {}).items()):
            if held.params or held.user_attrs or held.system_attrs:
                with self._updating(trial_id):
                    pass

    def _find_held(self, trial_id: int) -> _Held | None:
        return (self._thread.trials or {}).get(trial_id)

    def _hold_trial(self, trial_id: int) -> _Held:
        """Where to hold writes of a trial back; reads the trial the first time.

        Raises:
            KeyError: If there is no such trial.
            UpdateFinishedTrialError: If it is finished.
        """
        assert self._thread.trials is not None
        held = self._thread.trials.get(trial_id) or _Held(self.get_trial(trial_id))
        self.check_trial_is_updatable(trial_id, held.trial.state)
        self._thread.trials[trial_id] = held
        return held

    # Writing

    @contextmanager
    def _updating(self, trial_id: int) -> Iterator[tuple[Any, Any]]:
        """A transaction that has locked an unfinished trial and written what is held back of it.

        Yields:
            The session and the trial's row.

        Raises:
            KeyError: If there is no such trial.
            UpdateFinishedTrialError: If it is finished.
        """
        held = self._find_held(trial_id)
        try:
            with _create_scoped_session(self.scoped_session) as session:
                if self.engine.name == "sqlite":  # knows no SELECT FOR UPDATE, a write locks
                    table = models.TrialModel.__table__
                    lock = sa.update(table).where(table.c.trial_id == trial_id)
                    session.execute(lock.values(number=table.c.number))
                row: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
                self.check_trial_is_updatable(trial_id, row.state)
                if held is not None:
                    self._write_params(session, trial_id, held.params)
                    user, system = models.TrialUserAttributeModel, models.TrialSystemAttributeModel
                    self._write_attrs(session, user, trial_id, held.user_attrs)
                    self._write_attrs(session, system, trial_id, held.system_attrs)
                yield session, row
        except Exception as error:
            if held is not None and not lost_connection(error):
                assert self._thread.trials is not None
                self._thread.trials.pop(trial_id, None)
            raise
        if held is not None:
            held.clear()

    def _write_params(
        self, session: Any, trial_id: int, params: dict[str, tuple[float, str]]
    ) -> None:
        param = models.TrialParamModel
        insert = _INSERT.get(self.engine.name)
        there: set[str] = set()
        if params and insert is None:
            names = sa.select(param.param_name).where(param.trial_id == trial_id)
            there = set(session.execute(names).scalars())
        rows = [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": value,
                "distribution_json": text,
            }
            for name, (value, text) in params.items()
            if name not in there
        ]
        if rows:  # as in Optuna, what is there first stays
            table = param.__table__
            new = sa.insert(table) if insert is None else insert(table).on_conflict_do_nothing()
            session.execute(new, rows)

    def _write_attrs(self, session: Any, model: Any, trial_id: int, attrs: dict[str, str]) -> None:
        if self.engine.name in _INSERT:
            rows = [{"key": key, "value_json": text} for key, text in attrs.items()]
            self._put(session, model, trial_id, "key", rows)
            return
        for key, text in attrs.items():
            self._set_trial_attr_without_commit(session, model, trial_id, key, json.loads(text))

    def _write_values(self, session: Any, row: Any, values: Sequence[float]) -> None:
        if self.engine.name in _INSERT:
            model = models.TrialValueModel
            rows = [
                dict(zip(("value", "value_type"), model.value_to_stored_repr(value), strict=True))
                | {"objective": objective}
                for objective, value in enumerate(values)
            ]
            self._put(session, model, row.trial_id, "objective", rows)
            return
        for objective, value in enumerate(values):
            self._set_trial_value_without_commit(session, row, objective, value)

    def _put(
        self, session: Any, model: Any, trial_id: int, key: str, rows: list[dict[str, Any]]
    ) -> None:
        """Insert children of a trial, or update those whose key is there."""
        if not rows:
            return
        new = _INSERT[self.engine.name](model.__table__)
        changed = {name: new.excluded[name] for name in rows[0] if name != key}
        new = new.on_conflict_do_update(index_elements=["trial_id", key], set_=changed)
        session.execute(new, [{"trial_id": trial_id, **row} for row in rows])

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Any
    ) -> Any:
        row: Any = super()._get_prepared_new_trial(study_id, template_trial, session)
        if row.state == TrialState.RUNNING:
            self._start_heartbeat(session, row.trial_id)
        return row

    def _start_heartbeat(self, session: Any, trial_id: int) -> None:
        """Give a trial a heartbeat of now, whatever it had before it was queued again."""
        if self.heartbeat_interval is not None:
            table: Any = models.TrialHeartbeatModel.__table__
            session.execute(sa.delete(table).where(table.c.trial_id == trial_id))
            session.execute(sa.insert(table).values(trial_id=trial_id))

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
        if self._thread.trials is None:
            super()._set_trial_param(
                trial_id, param_name, param_value_internal, distribution, previous_distribution
            )
            return
        held = self._hold_trial(trial_id)
        # Optuna's cache in front of this object knows the distribution from the second trial on.
        previous = previous_distribution or self._previous(trial_id, held, param_name)
        if previous is not None:
            check_distribution_compatibility(previous, distribution)
        if param_name in held.trial.params:  # as in Optuna, what is there first stays
            return
        text = distribution_to_json(distribution)
        read = parse_distribution(text)
        held.trial.params[param_name] = read.to_external_repr(param_value_internal)
        held.trial.distributions[param_name] = read
        held.params[param_name] = (param_value_internal, text)

    def _previous(self, trial_id: int, held: _Held, name: str) -> BaseDistribution | None:
        """The distribution that a parameter of the study has had, if any."""
        if name in held.trial.distributions:
            return held.trial.distributions[name]
        if len(self._thread.trials or ()) > 1:  # what this thread holds of the others counts, too
            self._flush()
            held.previous = None
        if held.previous is not None and (name in held.previous or not held.previous):
            return held.previous.get(name)
        param, trial = models.TrialParamModel, models.TrialModel
        columns = sa.select(param.param_name, param.distribution_json)
        with _create_scoped_session(self.scoped_session) as session:
            study_id = sa.select(trial.study_id).where(trial.trial_id == trial_id)
            others = (
                trial.study_id == session.execute(study_id).scalar_one_or_none(),
                trial.trial_id != trial_id,
            )
            if held.previous is None:
                # Those of a trial at once: the first trial of a process asks for each name.
                has_params = sa.exists().where(param.trial_id == trial.trial_id)
                last = sa.select(trial.trial_id).where(*others, has_params)
                last = last.order_by(trial.trial_id.desc()).limit(1)
                chosen = session.execute(last).scalar_one_or_none()
                found = session.execute(columns.where(param.trial_id == chosen))
                held.previous = {name: parse_distribution(text) for name, text in found}
            if held.previous and name not in held.previous:
                of_name = columns.join(trial).where(*others, param.param_name == name).limit(1)
                for _, text in session.execute(of_name):
                    held.previous[name] = parse_distribution(text)
        return held.previous.get(name)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        if self._thread.trials is None:
            super().set_trial_user_attr(trial_id, key, value)
            return
        held = self._hold_trial(trial_id)
        # As text at once: what cannot be written is told, later changes have no effect.
        held.user_attrs[key] = json.dumps(value)
        held.trial.user_attrs[key] = json.loads(held.user_attrs[key])

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        if self._thread.trials is None:
            super().set_trial_system_attr(trial_id, key, value)
            return
        held = self._hold_trial(trial_id)
        held.system_attrs[key] = json.dumps(value)
        held.trial.system_attrs[key] = json.loads(held.system_attrs[key])

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See :class:`optuna.storages.BaseStorage`; writes what is held back with them."""
        held = self._find_held(trial_id)
        now = datetime.now()
        try:
            with self._updating(trial_id) as (session, row):
                self._write_values(session, row, values or ())
                if state == TrialState.RUNNING and row.state != TrialState.WAITING:
                    return False
                row.state = state
                if state == TrialState.RUNNING:
                    row.datetime_start = now
                    self._start_heartbeat(session, trial_id)
                if state.is_finished():
                    row.datetime_complete = now
        except IntegrityError:
            if state == TrialState.RUNNING:  # somebody else was faster
                return False
            raise
        if held is not None:
            held.trial.state = state
            if values is not None:
                held.trial.values = [float(value) for value in values]
            if state == TrialState.RUNNING:
                held.trial.datetime_start = now
            if state.is_finished():
                held.trial.datetime_complete = now
        return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._flush()
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        if (held := self._find_held(trial_id)) is not None:
            held.trial.intermediate_values[step] = float(intermediate_value)

    def delete_study(self, study_id: int) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._flush()
        super().delete_study(study_id)
        if self._thread.trials is not None:
            self._thread.trials.clear()  # some were of that study

    # Reading

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See :class:`optuna.storages.BaseStorage`."""
        if (held := self._find_held(trial_id)) is not None:
            return held.copy()
        with _create_scoped_session(self.scoped_session) as session:
            found = read_trials(session, models.TrialModel.trial_id == trial_id)
        if not found:
            raise KeyError(models.NOT_FOUND_MSG)
        return found[trial_id]

    def get_trial_user_attrs(self, trial_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        if (held := self._find_held(trial_id)) is not None:
            return held.copy().user_attrs
        return dict(super().get_trial_user_attrs(trial_id))

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        if (held := self._find_held(trial_id)) is not None:
            return held.copy().system_attrs
        return dict(super().get_trial_system_attrs(trial_id))

    def get_trial_param(self, trial_id: int, param_name: str) -> float:
        """See :class:`optuna.storages.BaseStorage`."""
        held = self._find_held(trial_id)
        if held is not None and param_name in held.params:
            return float(held.params[param_name][0])
        return float(super().get_trial_param(trial_id, param_name))

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        trial = models.TrialModel
        of_study = [trial.study_id == study_id]
        if states is not None:
            assert isinstance(states, Iterable)
            of_study.append(trial.state.in_(list(states)))
        with _create_scoped_session(self.scoped_session) as session:
            found = read_trials(session, *of_study, trial.trial_id > trial_id_greater_than)
            older = sorted(i for i in included_trial_ids if i <= trial_id_greater_than)
            for start in range(0, len(older), CHUNK):
                chosen = trial.trial_id.in_(older[start : start + CHUNK])
                found.update(read_trials(session, *of_study, chosen))
            if not found:
                models.StudyModel.find_or_raise_by_id(study_id, session)
        for trial_id, held in (self._thread.trials or {}).items():
            # Not if somebody has finished it: finished trials are kept by Optuna's cache.
            if trial_id in found and not found[trial_id].state.is_finished():
                found[trial_id] = held.copy()
        return [found[trial_id] for trial_id in sorted(found)]
