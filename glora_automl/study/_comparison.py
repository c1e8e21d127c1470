"""What a search was worth, as values that go through JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from glora_automl.study._result import Row

__all__ = ["Comparison", "RankCorrelation", "kendall"]


@dataclass(frozen=True)
class RankCorrelation:
    """How well one score ranks architectures by another.

    Attributes:
        tau: Kendall's tau-b, from -1 to 1; None if one of the scores is always the same.
        low: Lower end of its 95% interval, by bootstrap over the architectures.
        high: Upper end.
        pvalue: Of the hypothesis that the ranks have nothing to do with each other.
        pairs: The two scores of each architecture.
    """

    tau: float | None
    low: float | None
    high: float | None
    pvalue: float | None
    pairs: tuple[tuple[float, float], ...]

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> RankCorrelation:
        """The inverse of the attributes as JSON."""
        return cls(**{**table, "pairs": tuple((a, b) for a, b in table["pairs"])})


@dataclass(frozen=True)
class Comparison:
    """A study's adapter beside what it is to be compared with.

    Attributes:
        budget: The most trainable parameters of each, as a plain count.
        rows: The searched adapter, its architecture with the supernet's weights and trained alone,
            the best of a random search at the same cost, that trained alone, and adapters with the
            same choices in every layer.
        best_uniform: Name of the row of those last ones with the best validation score.
        inherited: How well accuracy with the supernet's weights ranks architectures by their
            accuracy when each is trained alone, both on the validation images; None if no
            architectures were trained for it.
    """

    budget: int
    rows: tuple[Row, ...]
    best_uniform: str
    inherited: RankCorrelation | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        ranks = self.inherited
        return {
            "budget": self.budget,
            "rows": [row.to_json() for row in self.rows],
            "best_uniform": self.best_uniform,
            "inherited": None
            if ranks is None
            else {**ranks.__dict__, "pairs": [list(pair) for pair in ranks.pairs]},
        }

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Comparison:
        """The inverse of :meth:`to_json`."""
        ranks = table["inherited"]
        return cls(
            table["budget"],
            tuple(Row.from_json(row) for row in table["rows"]),
            table["best_uniform"],
            None if ranks is None else RankCorrelation.from_json(ranks),
        )


def kendall(pairs: Sequence[Sequence[float]], seed: int = 0) -> RankCorrelation:
    """Kendall's tau-b of paired scores, with a bootstrap interval.

    Args:
        pairs: Two scores of each of at least two architectures.
        seed: Seeds the bootstrap's 1,000 resamples.

    Example:
        >>> found = kendall([(0.1, 0.2), (0.2, 0.4), (0.3, 0.3), (0.4, 0.6)])
        >>> round(found.tau, 3), round(found.pvalue, 3)
        (0.667, 0.333)
    """
    values = np.array(pairs)
    kept = tuple((float(a), float(b)) for a, b in pairs)
    result = stats.kendalltau(values[:, 0], values[:, 1])
    if not np.isfinite(result.statistic):
        return RankCorrelation(None, None, None, None, kept)
    rng = np.random.default_rng(seed)
    drawn = [values[rng.integers(len(values), size=len(values))] for _ in range(1000)]
    # A resample in which one of the scores is always the same has no tau.
    taus = [stats.kendalltau(d[:, 0], d[:, 1]).statistic for d in drawn if np.ptp(d, axis=0).all()]
    low, high = np.quantile(taus, [0.025, 0.975])
    return RankCorrelation(
        float(result.statistic), float(low), float(high), float(result.pvalue), kept
    )
