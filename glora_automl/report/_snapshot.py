"""A study at one moment, as all pictures and tables of a report see it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from math import isfinite

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from glora_automl.architecture import Architecture
from glora_automl.recipes import Recipe
from glora_automl.search_space import SearchSpace
from glora_automl.study import (
    CONSTRAINT,
    Selection,
    best_of,
    front_of,
    get_attribute,
    get_setting,
    objective_name,
    read_recipe,
    read_space,
)

__all__ = ["Snapshot"]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A study at one moment.

    Attributes:
        study: The study.
        trials: Its trials.

    Example:
        >>> from glora_automl.report import Snapshot
        >>> Snapshot.of(optuna.create_study()).complete
        []
    """

    study: optuna.Study
    trials: list[FrozenTrial]

    @classmethod
    def of(cls, study: optuna.Study) -> Snapshot:
        """Look at a study."""
        return cls(study, study.get_trials(deepcopy=False))

    @functools.cached_property
    def recipe(self) -> Recipe:
        """The study's recipe."""
        return read_recipe(self.study)

    @functools.cached_property
    def space(self) -> SearchSpace:
        """The study's search space."""
        return read_space(self.study)

    @functools.cached_property
    def budget(self) -> int:
        """The budget."""
        return int(get_setting(self.study, "budget"))

    @functools.cached_property
    def complete(self) -> list[FrozenTrial]:
        """Trials that were evaluated to the end, by number."""
        return [t for t in self.trials if t.state == TrialState.COMPLETE and t.values]

    @functools.cached_property
    def ranked(self) -> list[FrozenTrial]:
        """The feasible complete trials with different parameters, best first objective first."""
        return best_of(self.complete, self.study.directions[0], len(self.complete))

    @functools.cached_property
    def sign(self) -> float:
        """What makes lower values of the first objective better."""
        return 1.0 if self.study.directions[0] == StudyDirection.MINIMIZE else -1.0

    @functools.cached_property
    def objective(self) -> str:
        """Name of the first objective."""
        return objective_name(self.study)

    @property
    def is_share(self) -> bool:
        """Whether the first objective is a share of the images."""
        return self.objective.endswith("accuracy")

    @property
    def value_title(self) -> str:
        """What the first objective is, with its unit."""
        return f"{self.objective} in %" if self.is_share else self.objective

    def value_text(self, value: float) -> str:
        """A value of the first objective, without its unit."""
        return f"{100 * value:.1f}" if self.is_share else f"{value:.4g}"

    @functools.cached_property
    def sized(self) -> list[FrozenTrial]:
        """The complete trials whose parameters were counted and whose value is a number."""
        counted = (t for t in self.complete if t.user_attrs.get(CONSTRAINT) is not None)
        return [t for t in counted if isfinite(t.values[0])]

    @functools.cached_property
    def front(self) -> list[FrozenTrial]:
        """The feasible trials that none of at most their size is better than, smallest first."""
        return front_of(self.sized, self.study.directions[0])

    @functools.cached_property
    def selection(self) -> Selection | None:
        """What was selected, if that is so."""
        found = get_attribute(self.study, "selection")
        return None if found is None else Selection.from_json(found)

    @functools.cached_property
    def architecture(self) -> tuple[str, Architecture] | None:
        """The architecture that was selected, or the best so far, and which of them it is."""
        if (selection := self.selection) is not None:
            return f"{selection.origin} (selected)", Architecture.parse(selection.architecture)
        if not self.ranked:
            return None
        best = self.ranked[0]
        return f"trial {best.number} (best so far)", self.space.architecture(best.params)


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial keeps its constraints."""
    return all(value <= 0 for value in trial.constraints.values())
