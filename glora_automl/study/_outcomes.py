"""Outcomes of the stages, as the study keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from glora_automl.storages import ArtifactReference
from glora_automl.study._classes import ClassReport
from glora_automl.study._ladder import Step
from glora_automl.study._record import Count, Record, Seconds
from glora_automl.study._result import Row, Selection

__all__ = [
    "AdapterOutcome",
    "BackboneOutcome",
    "CandidatesOutcome",
    "Done",
    "PairOutcome",
    "SelectOutcome",
    "Spent",
    "SupernetOutcome",
    "TestOutcome",
    "TuneOutcome",
]


class Spent(NamedTuple):
    """Work of a stage.

    Attributes:
        n_trained: Images of all training steps (forward and backward).
        n_evaluated: Images of all evaluations (forward alone).
        seconds: Wall time of the training, a resumed one included; None takes the time of the
            last attempt.
        n_restarts: Restarts of trainings that collapsed.
    """

    n_trained: Count = 0
    n_evaluated: Count = 0
    seconds: Seconds | None = None
    n_restarts: Count = 0

    @property
    def forward_images(self) -> int:
        """Cost in images of a forward pass; a training step counts three (forward, backward)."""
        return 3 * self.n_trained + self.n_evaluated

    def plus(self, other: Spent) -> Spent:
        """Return both together."""
        known = [s.seconds for s in (self, other) if s.seconds is not None]
        return Spent(
            self.n_trained + other.n_trained,
            self.n_evaluated + other.n_evaluated,
            round(sum(known), 3) if known else None,
            self.n_restarts + other.n_restarts,
        )


NOTHING = Spent()


@dataclass(frozen=True)
class Done(Record):
    """Outcome of a stage that leaves nothing but its effects.

    Attributes:
        spent: Its work.
    """

    spent: Spent = NOTHING


@dataclass(frozen=True)
class BackboneOutcome(Record):
    """The backbone of a study.

    Attributes:
        digest: sha256 of its tensors.
        artifact: The weights, where no hub has them.
        spent: Work of the stage.
    """

    digest: str
    artifact: ArtifactReference | None = None
    spent: Spent = NOTHING


@dataclass(frozen=True)
class TuneOutcome(Record):
    """Settings of the recipe that short trainings chose.

    Attributes:
        settings: Values by key of the recipe.
        trial: Number of their trial in the study of the tuning.
        value: Its loss above that of a linear probe on the same fold.
        spent: Work of all trials.
    """

    settings: dict[str, bool | int | float | str]
    trial: int
    value: float
    spent: Spent = NOTHING


@dataclass(frozen=True)
class SupernetOutcome(Record):
    """A trained supernet.

    Attributes:
        digest: sha256 of its trainable tensors.
        artifact: These tensors.
        losses: Mean training loss per epoch.
        n_processes: Processes of its process group.
        spent: Work of the stage.
    """

    digest: str
    artifact: ArtifactReference
    losses: tuple[float, ...] = ()
    n_processes: Count = 1
    spent: Spent = NOTHING


@dataclass(frozen=True)
class AdapterOutcome(Record):
    """A trained adapter with its head.

    Attributes:
        row: Its row in the result table, without a test score.
        architecture: Its printed form; None if nothing fits the budget.
        digest: sha256 of its tensors.
        artifact: These tensors.
        selection: How it was selected, where it is a winner.
        spent: Work of the stage.
        predictions: Classes that it predicts for the validation images, where it was validated.
        step: Its comparison with the selected adapter, where it is a step of a ladder.
    """

    row: Row
    architecture: str | None = None
    digest: str | None = None
    artifact: ArtifactReference | None = None
    selection: Selection | None = None
    spent: Spent = NOTHING
    predictions: ArtifactReference | None = None
    step: Step | None = None


@dataclass(frozen=True)
class TestOutcome(Record):
    """Rows with test scores.

    Attributes:
        rows: The rows.
        spent: Work of the stage.
        classes: The selected adapter by class, if there are test images.
    """

    __test__ = False  # pytest takes classes of this name for tests

    rows: tuple[Row, ...]
    spent: Spent = NOTHING
    classes: ClassReport | None = None


@dataclass(frozen=True)
class CandidatesOutcome(Record):
    """Architectures that may be selected for a smaller budget.

    Attributes:
        candidates: Their selections, without scores.
        spent: Work of the stage.
    """

    candidates: tuple[Selection, ...]
    spent: Spent = NOTHING


@dataclass(frozen=True)
class SelectOutcome(Record):
    """An adapter that was selected for a smaller budget, tested there or before.

    Attributes:
        budget: That budget.
        selection: The selected architecture.
        row: Its row.
        spent: Work of the stage.
        classes: Its figures by class, if there are test images.
    """

    budget: Count
    selection: Selection
    row: Row
    spent: Spent = NOTHING
    classes: ClassReport | None = None


@dataclass(frozen=True)
class PairOutcome(Record):
    """Two validation accuracies of one architecture: inherited, and after training on.

    Attributes:
        inherited: With the supernet's weights.
        trained: After training on.
        n_params: Its trainable parameters.
        spent: Work of the stage.
    """

    inherited: float
    trained: float
    n_params: Count
    spent: Spent = NOTHING
