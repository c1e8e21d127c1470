"""Comparison of a study's adapter with other ways to spend the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glora_automl.study._record import Count, Record
from glora_automl.study._result import Row
from glora_automl.training import MetricName

__all__ = ["Comparison", "RankCorrelation", "spearman"]


@dataclass(frozen=True)
class RankCorrelation(Record):
    """Rank correlation of two scores of the same architectures.

    Attributes:
        rho: Spearman's rank correlation, from -1 to 1; None if a score is constant.
        low: Lower end of its 95 % interval, by bootstrap over the architectures; None below five
            architectures.
        high: Upper end.
        pairs: Both scores of each architecture.
    """

    rho: float | None
    low: float | None
    high: float | None
    pairs: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Comparison(Record):
    """A study's adapter beside its alternatives.

    Attributes:
        budget: The most trainable parameters of each row.
        rows: The searched adapter, its alternatives on the same supernet and stand-alone ones.
        best_preset: Name of the preset with the best validation score.
        inherited: Rank correlation of accuracies with inherited weights and after training on,
            both on the validation images; None if no architectures were trained for it.
        metric: The recipe's metric.
        notes: What limits the meaning of the figures.
    """

    budget: Count
    rows: tuple[Row, ...]
    best_preset: str
    inherited: RankCorrelation | None
    notes: tuple[str, ...] = ()
    metric: MetricName = "accuracy"


def spearman(pairs: Sequence[Sequence[float]], seed: int = 0) -> RankCorrelation:
    """Return Spearman's rank correlation of paired scores with a bootstrap interval.

    Args:
        pairs: Two scores of each of at least two architectures.
        seed: Seed of the bootstrap's 1,000 resamples.

    Example:
        >>> found = spearman([(0.1, 0.2), (0.2, 0.4), (0.3, 0.3), (0.4, 0.6)])
        >>> round(found.rho, 3), found.low
        (0.8, None)
    """
    from scipy import stats

    values = np.array(pairs, dtype=float)
    kept = tuple((float(a), float(b)) for a, b in pairs)
    if not np.ptp(values, axis=0).all():
        return RankCorrelation(None, None, None, kept)
    rho = float(stats.spearmanr(values[:, 0], values[:, 1]).statistic)
    if len(values) < 5:  # a bootstrap of so few architectures is mostly ties
        return RankCorrelation(rho, None, None, kept)
    rng = np.random.default_rng(seed)
    drawn = [values[rng.integers(len(values), size=len(values))] for _ in range(1000)]
    # A resample with a constant score has no correlation.
    found = [stats.spearmanr(d[:, 0], d[:, 1]).statistic for d in drawn if np.ptp(d, axis=0).all()]
    low, high = np.quantile(found, [0.025, 0.975])
    return RankCorrelation(rho, float(low), float(high), kept)
