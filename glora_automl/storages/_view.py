"""A storage as optuna-dashboard can show it: few parameters a trial, and the feasible best."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from glora_automl.errors import StorageError

__all__ = ["Projection", "StudyView"]

LEGACY_CONSTRAINTS = "constraints"
"""System attribute in which the dashboard looks for constraints; Optuna 5 has one for each."""


class Projection(Protocol):
    """What is shown instead of a trial's parameters."""

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """The distributions of what is shown, by name."""

    def __call__(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What is shown of a trial's parameters; nothing if it does not have all of them yet.

        Raises:
            ValueError: If they are not what is projected.
        """

    def describe(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """What is shown instead of the study's own attributes."""


class _Shown(NamedTuple):
    source: FrozenTrial
    trial: FrozenTrial
    violation: float


class _Study(NamedTuple):
    """What is known of a study: under which attributes, and its finished trials by id."""

    attributes: dict[str, Any]
    projection: Projection | None
    finished: dict[int, _Shown]


class StudyView(BaseStorage):
    """A view of another storage that optuna-dashboard shows at once, however many parameters.

    The dashboard sends every parameter of every trial to the browser, draws a line or a bar for
    each, looks for constraints where Optuna kept them before ``trial.set_constraint``, and takes
    the best value for the best trial even if it is infeasible. In the studies that ``project``
    knows, a trial has the parameters of a :class:`Projection`, its constraints are where the
    dashboard looks, the best trial is the best feasible one, and the list of studies has
    attributes for people to read. All other studies are as they
    are. A finished trial is projected once.

    Args:
        inner: The storage.
        project: The projection of a study, or None to leave it as it is; asked again when an
            attribute of the study changes.
        hides: Whether a study is left out of the list, given it and all by name; none is by
            default.
        writable: Whether attributes, which notes and artifacts are among, go through to ``inner``;
            trials and studies are neither made nor deleted here.

    Example:
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
        >>> view = StudyView(study._storage, lambda study: None)
        >>> view.get_all_trials(study._study_id) == study.trials
        True
        >>> view.set_study_user_attr(study._study_id, "a", 1)
        Traceback (most recent call last):
        glora_automl.errors.StorageError: This view of the storage is read only; ...
    """

    def __init__(
        self,
        inner: BaseStorage,
        project: Callable[[optuna.Study], Projection | None],
        *,
        hides: Callable[[FrozenStudy, Mapping[str, FrozenStudy]], bool] | None = None,
        writable: bool = False,
    ) -> None:
        self._inner = inner
        self._project = project
        self._hides = hides
        self._writable = writable
        self._studies: dict[int, _Study] = {}
        self._lock = threading.Lock()

    # Reading trials

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """See :class:`optuna.storages.BaseStorage`."""
        trials = [shown.trial for shown in self._shown(study_id, states)]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See :class:`optuna.storages.BaseStorage`."""
        for study in tuple(self._studies.values()):
            if trial_id in study.finished:
                return study.finished[trial_id].trial
        return self._inner.get_trial(trial_id)

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """The best feasible trial; if there is none, that which violates least.

        Raises:
            RuntimeError: If the study has several objectives.
            ValueError: If no trial is complete.
        """
        if self._study(study_id).projection is None:
            return self._inner.get_best_trial(study_id)
        directions = self.get_study_directions(study_id)
        if len(directions) > 1:
            raise RuntimeError("A study with several objectives has no best trial.")
        sign = 1.0 if directions[0] == StudyDirection.MINIMIZE else -1.0
        complete = [s for s in self._shown(study_id, (TrialState.COMPLETE,)) if s.trial.values]
        if not complete:
            raise ValueError("No trials are completed yet.")
        return min(
            complete, key=lambda s: (s.violation, sign * s.trial.values[0], s.trial.number)
        ).trial

    def _shown(self, study_id: int, states: Container[TrialState] | None) -> list[_Shown]:
        study = self._study(study_id)
        trials = self._inner.get_all_trials(study_id, deepcopy=False, states=states)
        if study.projection is None:
            return [_Shown(trial, trial, 0.0) for trial in trials]
        with self._lock:
            return [self._show(study, study.projection, trial) for trial in trials]

    def _show(self, study: _Study, projection: Projection, trial: FrozenTrial) -> _Shown:
        known = study.finished.get(trial._trial_id)
        # Storages hand out the same object as long as it is the same trial: a deleted study's
        # numbers may be another one's now.
        if known is not None and known.source is trial:
            return known
        shown = _Shown(trial, _projected(trial, projection), _violation(trial))
        if trial.state.is_finished():
            study.finished[trial._trial_id] = shown
        return shown

    def _study(self, study_id: int, attributes: dict[str, Any] | None = None) -> _Study:
        if attributes is None:
            attributes = self._inner.get_study_user_attrs(study_id)
        known = self._studies.get(study_id)
        if known is not None and known.attributes == attributes:
            return known
        name = self._inner.get_study_name_from_id(study_id)
        projection = self._project(optuna.load_study(study_name=name, storage=self._inner))
        finished = known.finished if known is not None and known.projection is projection else {}
        self._studies[study_id] = _Study(copy.deepcopy(attributes), projection, finished)
        return self._studies[study_id]

    # Reading studies

    def get_all_studies(self) -> list[FrozenStudy]:
        """See :class:`optuna.storages.BaseStorage`; without hidden studies, oldest first."""
        studies = sorted(self._inner.get_all_studies(), key=lambda study: study._study_id)
        by_name = {study.study_name: study for study in studies}
        hides = self._hides or (lambda study, by_name: False)
        return [self._described(study) for study in studies if not hides(study, by_name)]

    def _described(self, study: FrozenStudy) -> FrozenStudy:
        projection = self._study(study._study_id, study.user_attrs).projection
        if projection is None:
            return study
        shown = copy.copy(study)
        shown.user_attrs = projection.describe(study.user_attrs)
        return shown

    def get_study_id_from_name(self, study_name: str) -> int:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._inner.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._inner.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._inner.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._inner.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See :class:`optuna.storages.BaseStorage`."""
        return self._inner.get_study_system_attrs(study_id)

    def remove_session(self) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._inner.remove_session()

    # Writing, if that is allowed

    def _written(self) -> BaseStorage:
        if not self._writable:
            raise StorageError(
                "This view of the storage is read only; open it with --write to change notes, "
                "artifacts and attributes."
            )
        return self._inner

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._written().set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._written().set_study_system_attr(study_id, key, value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._written().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._written().set_trial_system_attr(trial_id, key, value)

    # Never: what a view shows is no study

    def _refuse(self) -> NoReturn:
        """What is shown is not what is there: a copy of it would be another study.

        Raises:
            StorageError: Always.
        """
        raise StorageError(
            "A view of a storage neither makes nor deletes studies, trials and values; use the "
            "storage itself."
        )

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """Refused; see :meth:`_refuse`."""
        self._refuse()

    def delete_study(self, study_id: int) -> None:
        """Refused; see :meth:`_refuse`."""
        self._refuse()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Refused; see :meth:`_refuse`."""
        self._refuse()

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Refused; see :meth:`_refuse`."""
        self._refuse()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Refused; see :meth:`_refuse`."""
        self._refuse()

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Refused; see :meth:`_refuse`."""
        self._refuse()


def _violation(trial: FrozenTrial) -> float:
    return sum(max(0.0, value) for value in trial.constraints.values())


def _projected(trial: FrozenTrial, projection: Projection) -> FrozenTrial:
    shown = copy.copy(trial)
    # What a retry was queued with, all parameters, is told a second time by the dashboard.
    system_attrs = {k: v for k, v in trial.system_attrs.items() if k != "fixed_params"}
    constraints = list(trial.constraints.values())
    if constraints:
        system_attrs[LEGACY_CONSTRAINTS] = constraints
    shown.system_attrs = system_attrs
    try:
        shown.params = projection(trial.params)
    except ValueError:
        return shown  # added by hand, with parameters of its own
    # Of a trial that has no parameters yet, too: the dashboard shows what all trials have.
    shown.distributions = dict(projection.distributions)
    return shown
