"""Optuna's tables: reading trials from them, and whether its private parts are as expected."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial

__all__ = ["CHUNK", "parse_distribution", "read_trials", "unsupported"]

CHUNK = 200
"""Trials read by one query: with 240 parameters each, their rows take about 20 MiB for a moment."""

# A study of 10,000 trials has millions of distributions in its rows and a few dozen different
# texts: each is parsed once, and the trials share the objects. By text: the distributions of 1 and
# of True are equal.
parse_distribution = functools.lru_cache(maxsize=65536)(json_to_distribution)

_PARAM, _VALUE = models.TrialParamModel, models.TrialValueModel
_USER, _SYSTEM = models.TrialUserAttributeModel, models.TrialSystemAttributeModel
_STEP = models.TrialIntermediateValueModel
_IDS: Any = sa.bindparam("ids", expanding=True)

_PARAMS = (
    sa.select(_PARAM.trial_id, _PARAM.param_name, _PARAM.param_value, _PARAM.distribution_json)
    .where(_PARAM.trial_id.in_(_IDS))
    .order_by(_PARAM.trial_id, _PARAM.param_id)
)


def _others() -> Any:
    """All other children of trials in one query: trial, table, place, name, number, text."""
    no_place, no_name = sa.cast(sa.null(), sa.Integer), sa.cast(sa.null(), sa.String)
    no_number = sa.cast(sa.null(), sa.Float)
    tables: tuple[tuple[Any, ...], ...] = (
        (_VALUE, _VALUE.objective, no_name, _VALUE.value, sa.cast(_VALUE.value_type, sa.String)),
        (_USER, no_place, _USER.key, no_number, _USER.value_json),
        (_SYSTEM, no_place, _SYSTEM.key, no_number, _SYSTEM.value_json),
        (
            _STEP,
            _STEP.step,
            no_name,
            _STEP.intermediate_value,
            sa.cast(_STEP.intermediate_value_type, sa.String),
        ),
    )
    return sa.union_all(
        *(
            sa.select(table.trial_id, sa.literal_column(str(number)), *columns).where(
                table.trial_id.in_(_IDS)
            )
            for number, (table, *columns) in enumerate(tables)
        )
    )


_OTHERS = _others()


class _Shape(NamedTuple):
    """The parameters of a trial without their values; those of a study mostly have the same."""

    names: tuple[str, ...]
    texts: tuple[str, ...]
    distributions: dict[str, BaseDistribution]

    @classmethod
    def of(cls, names: tuple[str, ...], texts: tuple[str, ...]) -> _Shape:
        interned = tuple(map(sys.intern, names))
        parsed = map(parse_distribution, texts)
        return cls(interned, texts, dict(zip(interned, parsed, strict=True)))


def read_trials(session: Any, *conditions: Any) -> dict[int, FrozenTrial]:
    """Trials that meet the conditions, by ascending id.

    The trials share their distribution objects, names and choices, and no dictionary.

    Args:
        session: An SQLAlchemy session.
        conditions: Conditions on ``models.TrialModel``.
    """
    trial = models.TrialModel
    query = sa.select(trial).where(*conditions).order_by(trial.trial_id).limit(CHUNK)
    found: dict[int, FrozenTrial] = {}
    # Whole objects, as they convert the times from UTC. Before their children, so that a trial
    # that is finished has them all.
    rows: Sequence[Any] = session.scalars(query).all()
    while rows:
        found.update(_build(session, rows))
        if len(rows) < CHUNK:
            break
        rows = session.scalars(query.where(trial.trial_id > rows[-1].trial_id)).all()
    return found


def _build(session: Any, rows: Sequence[Any]) -> Iterator[tuple[int, FrozenTrial]]:
    chosen = {"ids": [row.trial_id for row in rows]}
    params: dict[int, tuple[dict[str, Any], dict[str, BaseDistribution]]] = {}
    shape = _Shape((), (), {})
    for trial_id, children in groupby(session.execute(_PARAMS, chosen), key=itemgetter(0)):
        _, names, numbers, texts = zip(*children, strict=True)
        if names != shape.names or texts != shape.texts:
            shape = _Shape.of(names, texts)
        values = [
            distribution.to_external_repr(number)
            for distribution, number in zip(shape.distributions.values(), numbers, strict=True)
        ]
        # A copy: whoever changes a trial, or a deep copy of many, changes no other.
        params[trial_id] = dict(zip(shape.names, values, strict=True)), dict(shape.distributions)
    others: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for trial_id, table, *columns in session.execute(_OTHERS, chosen):
        others[trial_id, table].append(columns)
    for row in rows:
        i = row.trial_id
        values_, users, systems, steps = (others.get((i, table), ()) for table in range(4))
        external, distributions = params.get(i) or ({}, {})
        yield (
            i,
            FrozenTrial(
                number=row.number,
                state=row.state,
                value=None,
                values=[_value(x, kind) for _, _, x, kind in sorted(values_)] or None,
                datetime_start=row.datetime_start,
                datetime_complete=row.datetime_complete,
                params=external,
                distributions=distributions,
                user_attrs={sys.intern(key): json.loads(text) for _, key, _, text in users},
                system_attrs={sys.intern(key): json.loads(text) for _, key, _, text in systems},
                intermediate_values={n: _intermediate(x, kind) for n, _, x, kind in steps},
                trial_id=i,
            ),
        )


def _value(number: float | None, kind: str) -> float:
    return float(_VALUE.stored_repr_to_value(number, _VALUE.TrialValueType[kind]))


def _intermediate(number: float | None, kind: str) -> float:
    kinds = _STEP.TrialIntermediateValueType
    return float(_STEP.stored_repr_to_intermediate_value(number, kinds[kind]))


_EXPECTED = {
    "RDBStorage._set_trial_param": (
        "trial_id",
        "param_name",
        "param_value_internal",
        "distribution",
        "previous_distribution",
    ),
    "RDBStorage._get_trials": (
        "study_id",
        "states",
        "included_trial_ids",
        "trial_id_greater_than",
    ),
    "RDBStorage._get_prepared_new_trial": ("study_id", "template_trial", "session"),
    "RDBStorage._set_trial_attr_without_commit": (
        "session",
        "model_cls",
        "trial_id",
        "key",
        "value",
    ),
    "RDBStorage._set_trial_value_without_commit": ("session", "trial", "objective", "value"),
    "RDBStorage.check_trial_is_updatable": ("trial_id", "trial_state"),
    "StudyModel.find_or_raise_by_id": ("study_id", "session", "for_update"),
    "TrialModel.find_or_raise_by_id": ("trial_id", "session", "for_update"),
    "TrialValueModel.value_to_stored_repr": ("value",),
    "TrialValueModel.stored_repr_to_value": ("value", "float_type"),
    "TrialIntermediateValueModel.stored_repr_to_intermediate_value": ("value", "float_type"),
}
_COLUMNS = {
    "TrialModel": (
        "trial_id",
        "study_id",
        "number",
        "state",
        "datetime_start",
        "datetime_complete",
    ),
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
    "TrialHeartbeatModel": ("trial_id", "heartbeat"),
}


def unsupported() -> str | None:
    """Why the fast storage does not fit the installed Optuna; None if it does.

    Example:
        >>> unsupported() is None
        True
    """
    for name, parameters in _EXPECTED.items():
        owner, _, method = name.partition(".")
        holder = RDBStorage if owner == "RDBStorage" else getattr(models, owner, None)
        function = getattr(holder, method, None)
        if function is None or parameters != tuple(
            parameter for parameter in inspect.signature(function).parameters if parameter != "self"
        ):
            return f"{name} has changed"
    for model, columns in _COLUMNS.items():
        table = getattr(models, model, None)
        there = set() if table is None else {column.name for column in table.__table__.columns}
        if missing := [column for column in columns if column not in there]:
            return f"{model}.{missing[0]} is missing"
    return None
