"""Optuna's tables: read rows, write rows, and check the private parts of Optuna."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy.dialects import postgresql, sqlite

__all__ = [
    "CHUNK",
    "has_trials",
    "parse_distribution",
    "read_distributions",
    "read_trials",
    "start_heartbeat",
    "unsupported",
    "write_attrs",
    "write_params",
    "write_values",
]

CHUNK = 200
"""Trials per query; with 240 parameters per trial, the rows need about 20 MiB."""

# The rows of 10,000 trials hold millions of distributions, but a few dozen different texts. The
# cache key is the text, as the distributions of the choices 1 and True are equal.
parse_distribution = functools.lru_cache(maxsize=65536)(json_to_distribution)

_INSERT: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
"""Inserts with ON CONFLICT; other databases are written by Optuna's code."""

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
    """Select the values, attributes and intermediate values of trials in one query.

    The columns are trial id, table, index, name, number and text.
    """
    no_index, no_name = sa.cast(sa.null(), sa.Integer), sa.cast(sa.null(), sa.String)
    no_number = sa.cast(sa.null(), sa.Float)
    tables: tuple[tuple[Any, ...], ...] = (
        (_VALUE, _VALUE.objective, no_name, _VALUE.value, sa.cast(_VALUE.value_type, sa.String)),
        (_USER, no_index, _USER.key, no_number, _USER.value_json),
        (_SYSTEM, no_index, _SYSTEM.key, no_number, _SYSTEM.value_json),
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
    """Names and distributions of the parameters of a trial; most trials of a study share them."""

    names: tuple[str, ...]
    texts: tuple[str, ...]
    distributions: dict[str, BaseDistribution]

    @classmethod
    def parse(cls, names: tuple[str, ...], texts: tuple[str, ...]) -> _Shape:
        interned = tuple(map(sys.intern, names))
        parsed = map(parse_distribution, texts)
        return cls(interned, texts, dict(zip(interned, parsed, strict=True)))


def read_trials(session: Any, *conditions: Any) -> dict[int, FrozenTrial]:
    """Return the trials that meet the conditions, by ascending id.

    The trials share distributions, names and choices, but no dictionary.

    Args:
        session: An SQLAlchemy session.
        conditions: Conditions on ``models.TrialModel``.
    """
    trial = models.TrialModel
    query = sa.select(trial).where(*conditions).order_by(trial.trial_id).limit(CHUNK)
    found: dict[int, FrozenTrial] = {}
    # As objects, since these convert times from UTC. Before their children, so that a finished
    # trial has all of them.
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
            shape = _Shape.parse(names, texts)
        values = [
            distribution.to_external_repr(number)
            for distribution, number in zip(shape.distributions.values(), numbers, strict=True)
        ]
        # A copy, so that callers may change one trial without changing others.
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


def has_trials(
    session: Any, study_id: int, finished: FrozenTrial | None, unfinished: Collection[int]
) -> bool:
    """Return whether a study has an unchanged finished trial, and unfinished ones.

    Args:
        session: An SQLAlchemy session.
        study_id: The study.
        finished: The finished trial, if any.
        unfinished: Ids of trials that were not finished when they were read.
    """
    trial = models.TrialModel
    ids = sorted(unfinished)
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        count = sa.select(sa.func.count()).where(
            trial.study_id == study_id, trial.trial_id.in_(chunk)
        )
        if session.execute(count).scalar_one() != len(chunk):
            return False
    if finished is None:
        return True
    row: Any = session.get(trial, finished._trial_id)
    if row is None or (row.study_id, row.number) != (study_id, finished.number):
        return False
    found, expected = row.datetime_complete, finished.datetime_complete
    if found is None or expected is None:
        return found is expected
    # MySQL keeps whole seconds.
    near = found.microsecond == 0 and abs(found - expected) < timedelta(seconds=1)
    return bool(near or found == expected)


def read_distributions(
    session: Any, trial_id: int, name: str, known: dict[str, BaseDistribution] | None
) -> dict[str, BaseDistribution]:
    """Return distributions of the other trials of a study, with that of a parameter if any.

    Args:
        session: An SQLAlchemy session.
        trial_id: A trial of the study, which is ignored itself.
        name: The parameter.
        known: Distributions from an earlier call; None reads all those of the last trial at once,
            as the first trial of a process needs each of them.
    """
    trial = models.TrialModel
    columns = sa.select(_PARAM.param_name, _PARAM.distribution_json)
    study_id = sa.select(trial.study_id).where(trial.trial_id == trial_id)
    others = (
        trial.study_id == session.execute(study_id).scalar_one_or_none(),
        trial.trial_id != trial_id,
    )
    if known is None:
        has_params = sa.exists().where(_PARAM.trial_id == trial.trial_id)
        last = sa.select(trial.trial_id).where(*others, has_params)
        last = last.order_by(trial.trial_id.desc()).limit(1)
        last_id = session.execute(last).scalar_one_or_none()
        rows = session.execute(columns.where(_PARAM.trial_id == last_id))
        known = {key: parse_distribution(text) for key, text in rows}
    if known and name not in known:
        query = columns.join(trial).where(*others, _PARAM.param_name == name).limit(1)
        for _, text in session.execute(query):
            known[name] = parse_distribution(text)
    return known


def write_params(
    storage: RDBStorage, session: Any, trial_id: int, params: dict[str, tuple[float, str]]
) -> None:
    """Insert parameters of a trial; as in Optuna, existing ones stay.

    Args:
        storage: The storage of the session.
        session: An SQLAlchemy session.
        trial_id: The trial.
        params: Internal value and distribution as JSON, by name.
    """
    insert = _INSERT.get(storage.engine.name)
    existing: set[str] = set()
    if params and insert is None:
        names = sa.select(_PARAM.param_name).where(_PARAM.trial_id == trial_id)
        existing = set(session.execute(names).scalars())
    rows = [
        {"trial_id": trial_id, "param_name": name, "param_value": value, "distribution_json": text}
        for name, (value, text) in params.items()
        if name not in existing
    ]
    if rows:
        table = _PARAM.__table__
        new = sa.insert(table) if insert is None else insert(table).on_conflict_do_nothing()
        session.execute(new, rows)


def write_attrs(
    storage: RDBStorage,
    session: Any,
    trial_id: int,
    user_attrs: dict[str, str],
    system_attrs: dict[str, str],
) -> None:
    """Insert or update attributes of a trial, given as JSON."""
    for model, attrs in ((_USER, user_attrs), (_SYSTEM, system_attrs)):
        if storage.engine.name in _INSERT:
            rows = [{"key": key, "value_json": text} for key, text in attrs.items()]
            _upsert(storage, session, model, trial_id, "key", rows)
        else:
            for key, text in attrs.items():
                value = json.loads(text)
                storage._set_trial_attr_without_commit(session, model, trial_id, key, value)


def write_values(storage: RDBStorage, session: Any, row: Any, values: Sequence[float]) -> None:
    """Insert or update the objective values of a trial, given as its row."""
    if storage.engine.name in _INSERT:
        rows = [
            dict(zip(("value", "value_type"), _VALUE.value_to_stored_repr(value), strict=True))
            | {"objective": objective}
            for objective, value in enumerate(values)
        ]
        _upsert(storage, session, _VALUE, row.trial_id, "objective", rows)
    else:
        for objective, value in enumerate(values):
            storage._set_trial_value_without_commit(session, row, objective, value)


def _upsert(
    storage: RDBStorage,
    session: Any,
    model: Any,
    trial_id: int,
    key: str,
    rows: list[dict[str, Any]],
) -> None:
    """Insert children of a trial, or update those with the same key."""
    if not rows:
        return
    new = _INSERT[storage.engine.name](model.__table__)
    changed = {name: new.excluded[name] for name in rows[0] if name != key}
    new = new.on_conflict_do_update(index_elements=["trial_id", key], set_=changed)
    session.execute(new, [{"trial_id": trial_id, **row} for row in rows])


def start_heartbeat(session: Any, trial_id: int) -> None:
    """Insert a heartbeat of now, in place of one from before the trial was enqueued again."""
    table: Any = models.TrialHeartbeatModel.__table__
    session.execute(sa.delete(table).where(table.c.trial_id == trial_id))
    session.execute(sa.insert(table).values(trial_id=trial_id))


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
    """Return why the installed Optuna does not support the fast storage; None if it does.

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
        found = set() if table is None else {column.name for column in table.__table__.columns}
        if missing := [column for column in columns if column not in found]:
            return f"{model}.{missing[0]} is missing"
    return None
