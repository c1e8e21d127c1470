"""An RDB storage for trials with hundreds of parameters, on Optuna's schema.

The one module that touches private parts of Optuna; :func:`unsupported` says whether they are as
expected, and :func:`~glora_automl.storages.open_storage` falls back to Optuna's own class where
they are not.
"""

from __future__ import annotations

import atexit
import copy
import functools
import inspect
import json
import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from optuna import distributions as optuna_distributions
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState

__all__ = ["FastRDBStorage", "unsupported"]

_CHUNK = 500
"""Trials read by one query: below the 32,766 variables that SQLite allows, small in memory."""

# A study of 10,000 trials has millions of distributions in its rows and a few dozen different
# ones: each is parsed once, and the trials share the objects.
_parse = functools.lru_cache(maxsize=65536)(optuna_distributions.json_to_distribution)
_print = functools.lru_cache(maxsize=65536)(optuna_distributions.distribution_to_json)


@dataclass
class _Pending:
    """What a running trial of this process has not written yet."""

    study_id: int
    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.params or self.user_attrs or self.system_attrs)


class FastRDBStorage(RDBStorage):
    """:class:`optuna.storages.RDBStorage`, with a transaction a trial instead of a parameter.

    Parameters and attributes of a running trial are held back and written together, as soon as
    anything of any trial is read through this object, the trial changes its state, an
    intermediate value is reported, or the process ends. So whoever works through this object sees
    what stock Optuna would show; another process sees a running trial's parameters a moment
    later, and a killed process loses those of its unfinished trial, which is evaluated again
    anyway. Trials are read with plain queries and share their distribution objects.

    Arguments are those of :class:`optuna.storages.RDBStorage`.

    Example:
        >>> import optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(storage=FastRDBStorage("sqlite://"))
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
        >>> len(study.trials)
        3
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._start()

    def _start(self) -> None:
        self._guard = threading.RLock()
        self._pending: dict[int, _Pending] = {}
        self._known: dict[int, dict[str, BaseDistribution]] = {}
        reference = weakref.ref(self)

        def flush_at_exit() -> None:
            storage = reference()
            if storage is not None:
                storage.flush()

        atexit.register(flush_at_exit)
        weakref.finalize(self, atexit.unregister, flush_at_exit)

    def __getstate__(self) -> dict[Any, Any]:
        self.flush()
        state: dict[Any, Any] = super().__getstate__()
        for key in ("_guard", "_pending", "_known"):
            del state[key]
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._start()

    # Writing

    def _held(self, trial_id: int) -> _Pending:
        """Where to hold writes of a trial; asks the database the first time.

        Raises:
            KeyError: If there is no such trial.
            UpdateFinishedTrialError: If it is finished.
        """
        if trial_id not in self._pending:
            with _create_scoped_session(self.scoped_session) as session:
                found: Any = models.TrialModel.find_or_raise_by_id(trial_id, session)
                self.check_trial_is_updatable(trial_id, found.state)
                self._pending[trial_id] = _Pending(found.study_id)
        return self._pending[trial_id]

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        with self._guard:
            held = self._held(trial_id)
            known = self._known.setdefault(held.study_id, {})
            if previous_distribution is None and param_name not in known:
                with _create_scoped_session(self.scoped_session) as session:
                    self._learn(session, held.study_id, param_name)
            previous = previous_distribution or known.get(param_name)
            if previous is not None:
                optuna_distributions.check_distribution_compatibility(previous, distribution)
            known.setdefault(param_name, distribution)
            # As in Optuna, what is there first stays.
            held.params.setdefault(param_name, (param_value_internal, distribution))

    def _learn(self, session: Any, study_id: int, name: str) -> None:
        """Find the distribution that a parameter of the study has had, if any.

        All those of the same trial are learnt with it: mostly one query instead of one a name.
        """
        param, trial = models.TrialParamModel, models.TrialModel
        found = session.execute(
            sa.select(param.trial_id)
            .join(trial)
            .where(trial.study_id == study_id, param.param_name == name)
            .limit(1)
        ).scalar_one_or_none()
        if found is None:
            return
        rows = session.execute(
            sa.select(param.param_name, param.distribution_json).where(param.trial_id == found)
        )
        known = self._known.setdefault(study_id, {})
        for other, text in rows:
            known.setdefault(other, _parse(text))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        with self._guard:
            # Through JSON at once: what cannot be written is told, later changes have no effect.
            self._held(trial_id).user_attrs[key] = json.loads(json.dumps(value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        with self._guard:
            self._held(trial_id).system_attrs[key] = json.loads(json.dumps(value))

    def flush(self) -> None:
        """Write what is held back, a transaction a trial."""
        with self._guard:
            for trial_id, held in list(self._pending.items()):
                if held:
                    self._write(trial_id, held)

    def _write(self, trial_id: int, held: _Pending) -> None:
        param, trial = models.TrialParamModel, models.TrialModel
        with _create_scoped_session(self.scoped_session, True) as session:
            state = session.execute(
                sa.select(trial.state).where(trial.trial_id == trial_id).with_for_update()
            ).scalar_one_or_none()
            # A trial that somebody else has finished or deleted meanwhile takes nothing more.
            if state is not None and not state.is_finished():
                there = set()
                if held.params:
                    there = set(
                        session.execute(
                            sa.select(param.param_name).where(param.trial_id == trial_id)
                        ).scalars()
                    )
                rows = [
                    _param_row(trial_id, name, value, distribution)
                    for name, (value, distribution) in held.params.items()
                    if name not in there
                ]
                if rows:
                    session.execute(sa.insert(param), rows)
                for model, attrs in (
                    (models.TrialUserAttributeModel, held.user_attrs),
                    (models.TrialSystemAttributeModel, held.system_attrs),
                ):
                    for key, value in attrs.items():
                        self._set_trial_attr_without_commit(session, model, trial_id, key, value)
            else:
                self._pending.pop(trial_id)
        held.params, held.user_attrs, held.system_attrs = {}, {}, {}

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See :class:`optuna.storages.BaseStorage`."""
        with self._guard:
            self.flush()
            if state.is_finished():
                self._pending.pop(trial_id, None)
        return bool(super().set_trial_state_values(trial_id, state, values))

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self.flush()
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Any
    ) -> Any:
        # Inside the transaction and the retries of Optuna's own create_new_trial.
        if template_trial is None or not template_trial.params:
            return super()._get_prepared_new_trial(study_id, template_trial, session)
        light = copy.copy(template_trial)
        light.params, light.distributions = {}, {}
        trial: Any = super()._get_prepared_new_trial(study_id, light, session)
        session.flush()
        with self._guard:
            known = self._known.setdefault(study_id, {})
            for name, distribution in template_trial.distributions.items():
                if name not in known:
                    self._learn(session, study_id, name)
                if name in known:
                    optuna_distributions.check_distribution_compatibility(known[name], distribution)
                known.setdefault(name, distribution)
        session.execute(
            sa.insert(models.TrialParamModel),
            [
                _param_row(trial.trial_id, name, distribution.to_internal_repr(value), distribution)
                for name, value in template_trial.params.items()
                for distribution in (template_trial.distributions[name],)
            ],
        )
        return trial

    def delete_study(self, study_id: int) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        with self._guard:
            self.flush()
            self._known.pop(study_id, None)
        super().delete_study(study_id)

    # Reading

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See :class:`optuna.storages.BaseStorage`."""
        self.flush()
        with _create_scoped_session(self.scoped_session) as session:
            found = self._read(session, models.TrialModel.trial_id == trial_id)
        if not found:
            raise KeyError(models.NOT_FOUND_MSG)
        return found[0]

    def get_trial_user_attrs(self, trial_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        self.flush()
        return dict(super().get_trial_user_attrs(trial_id))

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        self.flush()
        return dict(super().get_trial_system_attrs(trial_id))

    def get_trial_param(self, trial_id: int, param_name: str) -> float:
        """See :class:`optuna.storages.BaseStorage`."""
        self.flush()
        return float(super().get_trial_param(trial_id, param_name))

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        self.flush()
        trial = models.TrialModel
        with _create_scoped_session(self.scoped_session) as session:
            models.StudyModel.find_or_raise_by_id(study_id, session)
            of_study = [trial.study_id == study_id]
            if states is not None:
                assert isinstance(states, Iterable)
                of_study.append(trial.state.in_(list(states)))
            found = self._read(session, *of_study, trial.trial_id > trial_id_greater_than)
            older = sorted(i for i in included_trial_ids if i <= trial_id_greater_than)
            for start in range(0, len(older), _CHUNK):
                chosen = trial.trial_id.in_(older[start : start + _CHUNK])
                found += self._read(session, *of_study, chosen)
        found.sort(key=lambda t: t._trial_id)
        return found

    def _read(self, session: Any, *conditions: Any) -> list[FrozenTrial]:
        """Trials that meet the conditions, by id."""
        trial = models.TrialModel
        # Whole objects, as they convert the times from UTC; their children are read in _build.
        rows = session.scalars(sa.select(trial).where(*conditions).order_by(trial.trial_id)).all()
        return [
            built
            for start in range(0, len(rows), _CHUNK)
            for built in self._build(session, rows[start : start + _CHUNK])
        ]

    def _build(self, session: Any, rows: Sequence[Any]) -> list[FrozenTrial]:
        ids = [row.trial_id for row in rows]

        def children(model: Any, *columns: Any, order: Any = None) -> dict[int, list[Any]]:
            query = sa.select(model.trial_id, *columns).where(model.trial_id.in_(ids))
            grouped = defaultdict(list)
            for trial_id, *values in session.execute(query.order_by(order)):
                grouped[trial_id].append(values)
            return grouped

        value, step = models.TrialValueModel, models.TrialIntermediateValueModel
        param = models.TrialParamModel
        user, system = models.TrialUserAttributeModel, models.TrialSystemAttributeModel
        params = children(
            param,
            param.param_name,
            param.param_value,
            param.distribution_json,
            order=param.param_id,
        )
        values = children(value, value.value, value.value_type, order=value.objective)
        users = children(user, user.key, user.value_json)
        systems = children(system, system.key, system.value_json)
        steps = children(step, step.step, step.intermediate_value, step.intermediate_value_type)
        built = []
        for row in rows:
            i = row.trial_id
            distributions = {sys.intern(name): _parse(text) for name, _, text in params[i]}
            built.append(
                FrozenTrial(
                    number=row.number,
                    state=row.state,
                    value=None,
                    values=[value.stored_repr_to_value(*v) for v in values[i]] or None,
                    datetime_start=row.datetime_start,
                    datetime_complete=row.datetime_complete,
                    params={
                        sys.intern(name): distributions[name].to_external_repr(x)
                        for name, x, _ in params[i]
                    },
                    distributions=distributions,
                    user_attrs={key: json.loads(text) for key, text in users[i]},
                    system_attrs={key: json.loads(text) for key, text in systems[i]},
                    intermediate_values={
                        n: step.stored_repr_to_intermediate_value(x, kind)
                        for n, x, kind in steps[i]
                    },
                    trial_id=i,
                )
            )
        return built


def _param_row(
    trial_id: int, name: str, value: float, distribution: BaseDistribution
) -> dict[str, Any]:
    return {
        "trial_id": trial_id,
        "param_name": name,
        "param_value": value,
        "distribution_json": _print(distribution),
    }


_EXPECTED = {
    "_set_trial_param": (
        "trial_id",
        "param_name",
        "param_value_internal",
        "distribution",
        "previous_distribution",
    ),
    "_get_prepared_new_trial": ("study_id", "template_trial", "session"),
    "_get_trials": ("study_id", "states", "included_trial_ids", "trial_id_greater_than"),
    "_set_trial_attr_without_commit": ("session", "model_cls", "trial_id", "key", "value"),
}
_COLUMNS = {
    "TrialModel": ("trial_id", "study_id", "number", "state"),
    "TrialParamModel": ("param_id", "trial_id", "param_name", "param_value", "distribution_json"),
    "TrialValueModel": ("trial_id", "objective", "value", "value_type"),
    "TrialUserAttributeModel": ("trial_id", "key", "value_json"),
    "TrialSystemAttributeModel": ("trial_id", "key", "value_json"),
    "TrialIntermediateValueModel": (
        "trial_id",
        "step",
        "intermediate_value",
        "intermediate_value_type",
    ),
}


def unsupported() -> str | None:
    """Why this module does not fit the installed Optuna; None if it does.

    Example:
        >>> unsupported() is None
        True
    """
    for method, parameters in _EXPECTED.items():
        function = getattr(RDBStorage, method, None)
        if function is None or tuple(inspect.signature(function).parameters)[1:] != parameters:
            return f"RDBStorage.{method} has changed"
    for model, columns in _COLUMNS.items():
        table = getattr(models, model, None)
        there = set() if table is None else {column.name for column in table.__table__.columns}
        if missing := [column for column in columns if column not in there]:
            return f"{model}.{missing[0]} is missing"
    return None
