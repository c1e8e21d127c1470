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
        low: Lower end of its 95 % interval; None below five architectures.
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
        best_preset: Name of the preset with the best validation score; None if no images were
            held out.
        inherited: Rank correlation of accuracies with inherited weights and after training on,
            both on the validation images; None if no architectures were trained for it.
        metric: The recipe's metric.
        notes: What limits the meaning of the figures.
    """

    budget: Count
    rows: tuple[Row, ...]
    best_preset: str | None
    inherited: RankCorrelation | None
    notes: tuple[str, ...] = ()
    metric: MetricName = "accuracy"


def spearman(pairs: Sequence[Sequence[float]]) -> RankCorrelation:
    """Return Spearman's rank correlation of paired scores with its interval.

    The interval is that of Bonett and Wright (2000, Psychometrika 65). A bootstrap of few
    architectures in perfect order is a single point, as each resample has the same order.

    Args:
        pairs: Two scores of each of at least two architectures.

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
    n = len(values)
    if n < 5:  # its standard error is for more
        return RankCorrelation(rho, None, None, kept)
    # Correlations of n ranks differ by 12 / (n^3 - n) at least. A perfect order stands for all that
    # are nearer to it than to the next one, as Fisher's z of 1 is infinite.
    half = 6 / (n**3 - n)
    z = np.arctanh(np.clip(rho, half - 1, 1 - half))
    spread = stats.norm.ppf(0.975) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = float(np.tanh(z - spread)), float(np.tanh(z + spread))
    return RankCorrelation(rho, min(low, rho), max(high, rho), kept)
