"""State of a search, for display."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["ParameterGrid", "SearchState"]


class ParameterGrid(NamedTuple):
    """Trainable parameters of an architecture by support tensor and block.

    Attributes:
        rows: Support tensors.
        columns: Blocks in the model's order.
        counts: Trainable parameters by row and column.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class SearchState:
    """State of a search; as a string, its best result.

    Attributes:
        best: First value of the best trial.
        objective: Name of the first objective. Accuracies are shown in percent.
        n_params: Trainable parameters of the best trial; None if unknown.
        budget: Budget in trainable parameters.
        recent: First values of the latest feasible trials, the newest last.
        generation: Current generation, from 1, and number of generations; None for a sampler
            without generations.
        workers: Number of workers so far.
        running: Number of trials on other workers.
        grid: Trainable parameters of the best trial by support tensor and block.

    Example:
        >>> print(SearchState(best=0.9, objective="accuracy", n_params=1234))
        best 90.0%, 1,234 parameters
        >>> print(SearchState(best=0.25, objective="loss", n_params=1234))
        best loss 0.250, 1,234 parameters
    """

    best: float
    objective: str
    n_params: int | None = None
    budget: int | None = None
    recent: tuple[float, ...] = ()
    generation: tuple[int, int] | None = None
    workers: int = 0
    running: int = 0
    grid: ParameterGrid | None = None

    def text(self, value: float) -> str:
        """Format a value with its unit."""
        return f"{value:.1%}" if self.objective.endswith("accuracy") else f"{value:.3f}"

    @property
    def best_text(self) -> str:
        """Best value, with the name of the objective unless it is the accuracy."""
        text = self.text(self.best)
        return text if self._is_accuracy else f"{self.objective} {text}"

    @property
    def size_text(self) -> str:
        """Suffix with the trainable parameters of the best trial; empty if unknown."""
        return "" if self.n_params is None else f", {self.n_params:,} parameters"

    @property
    def _is_accuracy(self) -> bool:
        return self.objective in ("accuracy", "validation accuracy")

    def __str__(self) -> str:
        return f"best {self.best_text}{self.size_text}"
