"""An RDB storage for trials with hundreds of parameters, on Optuna's schema.

The one module that touches private parts of Optuna; :func:`unsupported` says whether they are as
expected, and :func:`~glora_automl.storages.open_storage` falls back to Optuna's own class where
they are not or where this module cannot even be imported.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
import threading
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
# texts: each is parsed once, and the trials share the objects.
_parse = functools.lru_cache(maxsize=65536)(optuna_distributions.json_to_distribution)


@dataclass
class _Held:
    """What a thread has set on a running trial and not written yet."""

    study_id: int
    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)


class _Thread(threading.local):
    """What a thread holds back; ``trials`` is None outside of :meth:`FastRDBStorage.hold`."""

    trials: dict[int, _Held] | None = None


class FastRDBStorage(RDBStorage):
    """:class:`optuna.storages.RDBStorage` that can write a trial's parameters in one transaction.

    Outside of :meth:`hold` every write is Optuna's own. Trials are read with plain queries and
    share their distribution objects. Arguments are those of :class:`optuna.storages.RDBStorage`.

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

    # Writing

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold back what this thread sets on running trials, and write it together.

        Parameters and attributes are written in one transaction a trial at the end of the block,
        or before anything is read through this object by the same thread or a state or an
        intermediate value is set. Other threads and processes see them from then on. A process
        that is killed in the block loses them; its trial is unfinished then.

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
            held, self._thread.trials = self._thread.trials, None
            with suppress(Exception):
                for trial_id, trial in held.items():
                    self._write(trial_id, trial)

    def _held(self, trial_id: int) -> _Held:
        """Where to hold writes of a trial back; asks the database the first time.

        Raises:
            KeyError: If there is no such trial.
            UpdateFinishedTrialError: If it is finished.
        """
        assert self._thread.trials is not None
        if trial_id not in self._thread.trials:
            with _create_scoped_session(self.scoped_session) as session:
                found: Any = models.TrialModel.find_or_raise_by_id(trial_id, session)
                self.check_trial_is_updatable(trial_id, found.state)
                self._thread.trials[trial_id] = _Held(found.study_id)
        return self._thread.trials[trial_id]

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
        held = self._held(trial_id)
        # Optuna's cache in front of this object knows the distribution from the second trial on.
        previous = previous_distribution or self._previous(held.study_id, param_name)
        if previous is not None:
            optuna_distributions.check_distribution_compatibility(previous, distribution)
        # As in Optuna, what is there first stays.
        held.params.setdefault(param_name, (param_value_internal, distribution))

    def _previous(self, study_id: int, name: str) -> BaseDistribution | None:
        """The distribution that a parameter of the study has had, if any."""
        param, trial = models.TrialParamModel, models.TrialModel
        with _create_scoped_session(self.scoped_session) as session:
            found = session.execute(
                sa.select(param.distribution_json)
                .join(trial)
                .where(trial.study_id == study_id, param.param_name == name)
                .limit(1)
            ).scalar_one_or_none()
        return None if found is None else _parse(found)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        if self._thread.trials is None:
            super().set_trial_user_attr(trial_id, key, value)
        else:
            # Through JSON at once: what cannot be written is told, later changes have no effect.
            self._held(trial_id).user_attrs[key] = json.loads(json.dumps(value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        if self._thread.trials is None:
            super().set_trial_system_attr(trial_id, key, value)
        else:
            self._held(trial_id).system_attrs[key] = json.loads(json.dumps(value))

    def _flush(self) -> None:
        """Write what this thread holds back. What cannot be written is told once and dropped."""
        if self._thread.trials:
            held, self._thread.trials = self._thread.trials, {}
            for trial_id, trial in held.items():
                self._write(trial_id, trial)

    def _write(self, trial_id: int, held: _Held) -> None:
        param, trial = models.TrialParamModel, models.TrialModel
        if not (held.params or held.user_attrs or held.system_attrs):
            return
        with _create_scoped_session(self.scoped_session) as session:
            found: Any = trial.find_or_raise_by_id(trial_id, session, for_update=True)
            self.check_trial_is_updatable(trial_id, found.state)
            names = sa.select(param.param_name).where(param.trial_id == trial_id)
            there = set(session.execute(names).scalars()) if held.params else set()
            rows = [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": value,
                    # Not cached: distributions of 1 and of True are equal, their texts are not.
                    "distribution_json": optuna_distributions.distribution_to_json(distribution),
                }
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

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See :class:`optuna.storages.BaseStorage`."""
        self._flush()
        return bool(super().set_trial_state_values(trial_id, state, values))

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._flush()
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def delete_study(self, study_id: int) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._flush()
        super().delete_study(study_id)

    # Reading

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See :class:`optuna.storages.BaseStorage`."""
        self._flush()
        with _create_scoped_session(self.scoped_session) as session:
            found = self._read(session, models.TrialModel.trial_id == trial_id)
        if not found:
            raise KeyError(models.NOT_FOUND_MSG)
        return found[0]

    def get_trial_user_attrs(self, trial_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        self._flush()
        return dict(super().get_trial_user_attrs(trial_id))

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        self._flush()
        return dict(super().get_trial_system_attrs(trial_id))

    def get_trial_param(self, trial_id: int, param_name: str) -> float:
        """See :class:`optuna.storages.BaseStorage`."""
        self._flush()
        return float(super().get_trial_param(trial_id, param_name))

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        self._flush()
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


_EXPECTED = {
    "_set_trial_param": (
        "trial_id",
        "param_name",
        "param_value_internal",
        "distribution",
        "previous_distribution",
    ),
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
