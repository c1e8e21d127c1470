"""A view of a storage for optuna-dashboard: few parameters per trial, best feasible trial."""

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
from glora_automl.samplers import sort_trials

__all__ = ["Projection", "StudyView"]

LEGACY_CONSTRAINTS = "constraints"
"""System attribute from which the dashboard reads constraints; Optuna 5 has one for each."""


class Projection(Protocol):
    """A projection of the parameters of a trial onto fewer ones."""

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """Distributions of the projected parameters, by name."""

    def __call__(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the projected parameters; none if some parameters are missing.

        Raises:
            ValueError: If the parameters are not those of the study.
        """

    def describe(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return attributes to show instead of those of the study."""


class _Projected(NamedTuple):
    source: FrozenTrial
    trial: FrozenTrial


class _Study(NamedTuple):
    """The attributes and projection of a study, and its finished trials by id."""

    attributes: dict[str, Any]
    projection: Projection | None
    finished: dict[int, _Projected]


class StudyView(BaseStorage):
    """A view of a storage that optuna-dashboard shows fast, even with hundreds of parameters.

    The dashboard sends every parameter of every trial to the browser and draws each of them. It
    reads constraints from the attribute of earlier Optuna versions, and its best trial may be
    infeasible. In the view a trial has the parameters of a :class:`Projection` and constraints
    that the dashboard finds, the best trial is the best feasible one, and the attributes of a
    study are readable. Studies without a projection are unchanged. Each finished trial is
    projected once.

    Args:
        inner: The storage.
        project: Returns the projection of a study, or None for no change. It is called again when
            an attribute of the study changes.
        hides: Returns whether to hide a study, given the study and all studies by name. By default
            no study is hidden.
        writable: Whether to write attributes, notes and artifacts to ``inner``. Studies, trials
            and values are never written.

    Example:
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
        >>> view = StudyView(study._storage, lambda study: None)
        >>> view.get_all_trials(study._study_id) == study.trials
        True
        >>> view.set_study_user_attr(study._study_id, "a", 1)
        Traceback (most recent call last):
        glora_automl.errors.StorageError: `writable` must be True ...
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
        trials = self._trials(study_id, states)
        return copy.deepcopy(trials) if deepcopy else trials

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See :class:`optuna.storages.BaseStorage`."""
        for study in tuple(self._studies.values()):
            if trial_id in study.finished:
                return study.finished[trial_id].trial
        return self._inner.get_trial(trial_id)

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Return the best feasible trial, or the one with the least violation if none is feasible.

        Raises:
            RuntimeError: If the study has several objectives.
            ValueError: If no trial is complete.
        """
        if self._study(study_id).projection is None:
            return self._inner.get_best_trial(study_id)
        directions = self.get_study_directions(study_id)
        if len(directions) > 1:
            raise RuntimeError("A study with several objectives has no best trial.")
        best = sort_trials(self._trials(study_id, (TrialState.COMPLETE,)), directions, 1)
        if not best:
            raise ValueError("No trials are completed yet.")
        return best[0]

    def _trials(self, study_id: int, states: Container[TrialState] | None) -> list[FrozenTrial]:
        study = self._study(study_id)
        trials = self._inner.get_all_trials(study_id, deepcopy=False, states=states)
        if study.projection is None:
            return trials
        with self._lock:
            return [self._project_trial(study, study.projection, trial) for trial in trials]

    def _project_trial(
        self, study: _Study, projection: Projection, trial: FrozenTrial
    ) -> FrozenTrial:
        known = study.finished.get(trial._trial_id)
        # By object, as the ids of a deleted study may belong to another study.
        if known is not None and known.source is trial:
            return known.trial
        projected = _project(trial, projection)
        if trial.state.is_finished():
            study.finished[trial._trial_id] = _Projected(trial, projected)
        return projected

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
        return [self._describe(study) for study in studies if not hides(study, by_name)]

    def _describe(self, study: FrozenStudy) -> FrozenStudy:
        projection = self._study(study._study_id, study.user_attrs).projection
        if projection is None:
            return study
        described = copy.copy(study)
        described.user_attrs = projection.describe(study.user_attrs)
        return described

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

    # Writing of attributes

    def _writable_inner(self) -> BaseStorage:
        if not self._writable:
            raise StorageError(
                "`writable` must be True to change notes, artifacts and attributes, got False. Set "
                "`writable`."
            )
        return self._inner

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._writable_inner().set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._writable_inner().set_study_system_attr(study_id, key, value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._writable_inner().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        self._writable_inner().set_trial_system_attr(trial_id, key, value)

    # Refused, as the view does not have the parameters of the study

    def _refuse(self) -> NoReturn:
        """Refuse to write a study, trial or value, as its parameters are projections.

        Raises:
            StorageError: Always.
        """
        raise StorageError(
            "A view of a storage must not create or delete studies, trials and values. Use the "
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


def _project(trial: FrozenTrial, projection: Projection) -> FrozenTrial:
    projected = copy.copy(trial)
    # Without the parameters of a retry, which the dashboard would show a second time.
    system_attrs = {k: v for k, v in trial.system_attrs.items() if k != "fixed_params"}
    constraints = list(trial.constraints.values())
    if constraints:
        system_attrs[LEGACY_CONSTRAINTS] = constraints
    projected.system_attrs = system_attrs
    try:
        projected.params = projection(trial.params)
    except ValueError:
        return projected  # a trial added by hand, with other parameters
    # Also for a trial without parameters, as the dashboard shows those that all trials have.
    projected.distributions = dict(projection.distributions)
    return projected
