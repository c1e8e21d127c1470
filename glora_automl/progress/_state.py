"""How a search stands, as whoever shows it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["ParameterGrid", "SearchState"]


class ParameterGrid(NamedTuple):
    """Where the parameters of an architecture are.

    Attributes:
        rows: Support tensors.
        columns: Blocks of layers, in the model's order.
        counts: Trainable parameters by row and column.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class SearchState:
    """How a search stands; as a text, what is best so far.

    Attributes:
        best: First value of the best trial.
        objective: What the values are; those of an ``accuracy`` are told in percent.
        n_params: Trainable parameters of the best trial, if they were counted.
        budget: The most that it may have.
        recent: First values of the latest trials within the budget, the newest last.
        generation: The one that is under way, from 1, and how many there are; None if the sampler
            knows none.
        workers: How many were seen.
        running: Trials that are being evaluated by others.
        grid: Where the parameters of the best trial are.

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
        """A value with its unit."""
        return f"{value:.1%}" if self._is_share else f"{value:.3f}"

    @property
    def best_text(self) -> str:
        """The best value, and what it is where its unit does not tell."""
        return (
            self.text(self.best) if self._is_share else f"{self.objective} {self.text(self.best)}"
        )

    @property
    def size_text(self) -> str:
        """The parameters of the best, to follow its value; nothing if they were not counted."""
        return "" if self.n_params is None else f", {self.n_params:,} parameters"

    @property
    def _is_share(self) -> bool:
        return self.objective.endswith("accuracy")

    def __str__(self) -> str:
        return f"best {self.best_text}{self.size_text}"
