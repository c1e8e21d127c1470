"""Snapshot of a study, from which all pictures and tables of a report are made."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from math import isfinite

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from glora_automl.architecture import Architecture
from glora_automl.recipes import Recipe
from glora_automl.samplers import is_feasible, sort_trials
from glora_automl.search_space import SearchSpace
from glora_automl.study import (
    CONSTRAINT,
    ClassReport,
    Ladder,
    Selection,
    get_attribute,
    get_setting,
    objective_name,
    pareto_trials,
    read_recipe,
    read_space,
)

__all__ = ["Snapshot"]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A study and its trials at one moment.

    Attributes:
        study: The study.
        trials: All trials of the study.

    Example:
        >>> from glora_automl.report import Snapshot
        >>> Snapshot.of(optuna.create_study()).complete
        []
    """

    study: optuna.Study
    trials: list[FrozenTrial]

    @classmethod
    def of(cls, study: optuna.Study) -> Snapshot:
        """Read the trials of a study."""
        return cls(study, study.get_trials(deepcopy=False))

    @property
    def selected_preset(self) -> str | None:
        """The baseline that was selected instead of the searched adapter."""
        return None if self.selection is None else self.selection.preset

    @functools.cached_property
    def recipe(self) -> Recipe:
        """Recipe of the study."""
        return read_recipe(self.study)

    @functools.cached_property
    def space(self) -> SearchSpace:
        """Search space of the study."""
        return read_space(self.study)

    @functools.cached_property
    def budget(self) -> int:
        """Budget in trainable parameters."""
        return int(get_setting(self.study, "budget"))

    @functools.cached_property
    def complete(self) -> list[FrozenTrial]:
        """Complete trials, by number."""
        return [t for t in self.trials if t.state == TrialState.COMPLETE and t.values]

    @functools.cached_property
    def ranked(self) -> list[FrozenTrial]:
        """Feasible complete trials with distinct parameters, best first by the first objective."""
        return sort_trials(filter(is_feasible, self.complete), self.study.directions[:1])

    @functools.cached_property
    def sign(self) -> float:
        """Factor by which lower values of the first objective are better: 1 or -1."""
        return 1.0 if self.study.directions[0] == StudyDirection.MINIMIZE else -1.0

    @functools.cached_property
    def objective(self) -> str:
        """Name of the first objective."""
        return objective_name(self.study)

    @property
    def in_percent(self) -> bool:
        """Whether the first objective is a mean of accuracies, shown in percent."""
        return self.objective.endswith("accuracy")

    @property
    def is_accuracy(self) -> bool:
        """Whether the first objective is the fraction of correct images."""
        return self.in_percent and "balanced" not in self.objective

    @property
    def value_title(self) -> str:
        """Name of the first objective, with its unit."""
        return f"{self.objective} in %" if self.in_percent else self.objective

    def value_text(self, value: float) -> str:
        """Format a value of the first objective, without its unit."""
        return f"{100 * value:.1f}" if self.in_percent else f"{value:.4g}"

    @functools.cached_property
    def counted(self) -> list[FrozenTrial]:
        """Complete trials with a count of trainable parameters and a finite first value."""
        counted = (t for t in self.complete if t.user_attrs.get(CONSTRAINT) is not None)
        return [t for t in counted if isfinite(t.values[0])]

    @functools.cached_property
    def front(self) -> list[FrozenTrial]:
        """Pareto front of trainable parameters and the first objective, smallest first."""
        return pareto_trials(self.counted, self.study.directions[0])

    @functools.cached_property
    def selection(self) -> Selection | None:
        """The selection; None before it is made."""
        found = get_attribute(self.study, "selection")
        return None if found is None else Selection.from_json(found)

    @functools.cached_property
    def ladder(self) -> Ladder | None:
        """The latest ladder of smaller adapters; None without a margin."""
        found = get_attribute(self.study, "ladder")
        return None if found is None else Ladder.from_json(found)

    @functools.cached_property
    def classes(self) -> ClassReport | None:
        """The selected adapter by class; None before the test, and without test images."""
        found = get_attribute(self.study, "classes")
        return None if found is None else ClassReport.from_json(found)

    @functools.cached_property
    def architecture(self) -> tuple[str, Architecture] | None:
        """The selected or, before the selection, the best architecture, after its label."""
        if (selection := self.selection) is not None:
            return f"{selection.origin} (selected)", Architecture.parse(selection.architecture)
        if not self.ranked:
            return None
        best = self.ranked[0]
        return f"trial {best.number} (best so far)", self.space.architecture(best.params)
