"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from scipy.stats import binomtest

from glora_automl.study import RankCorrelation, Row
from glora_automl.supernet import Score

__all__ = ["accuracy_text", "correlation_text", "front_table", "result_table"]


def accuracy_text(score: Score | None) -> str:
    """Accuracy with its 95% confidence interval, in percent.

    The interval is Wilson's (Probable inference, the law of succession, and statistical inference,
    1927): it tells how far another draw of as many images would move the figure, and nothing of
    the training's randomness.

    Example:
        >>> accuracy_text(Score(accuracy=0.72, loss=1.0, images=150))
        '72.0 (64–79)'
    """
    if score is None:
        return "–"
    right = round(score.accuracy * score.images)
    low, high = binomtest(right, score.images).proportion_ci(method="wilson")
    return f"{100 * score.accuracy:.1f} ({100 * low:.0f}–{100 * high:.0f})"


def result_table(rows: Sequence[Row], budget: int) -> Table:
    """The searched adapter beside the controls; what was tested on several domains has a line each.

    The mean of the domains is without the one that was learnt.
    """
    table = Table(
        title=f"Accuracy in % (95% interval) under a budget of {budget:,} trainable parameters"
    )
    table.add_column("adapter")
    for column in ("parameters", "validation", "test", "images", "seconds"):
        table.add_column(column, justify="right")
    for row in rows:
        if row.parameters is None:
            table.add_row(row.name, "none fits", "–", "–", "–", "–")
            continue
        table.add_row(
            row.name,
            f"{row.parameters:,}",
            accuracy_text(row.validation),
            accuracy_text(row.test),
            f"{row.images:,}",
            f"{row.seconds:.1f}",
        )
        for domain, score in row.domains.items():
            table.add_row(f"  on {domain}", "", "", accuracy_text(score), "", "")
        if row.domain_mean is not None:
            mean = f"{100 * row.domain_mean:.1f}"
            table.add_row(f"  mean of {len(row.domains)} domains", "", "", mean, "", "")
    return table


def front_table(front: Sequence[Mapping[str, Any]], metric: str) -> Table:
    """What the best architectures of each size reach with the supernet's weights.

    Args:
        front: From :func:`glora_automl.study.summarize`.
        metric: Name of the value.
    """
    table = Table(title="Trade-off, with the supernet's weights on the validation images")
    for column in ("parameters", metric, "trial"):
        table.add_column(column, justify="right")
    for point in front:
        table.add_row(f"{point['parameters']:,}", f"{point['value']:.4g}", str(point["trial"]))
    return table


def correlation_text(ranks: RankCorrelation) -> str:
    """What a comparison found of inherited and retrained accuracy.

    Example:
        >>> correlation_text(RankCorrelation(0.6, 0.2, 0.8, 0.03, ((0.1, 0.2),) * 9))
        ... # doctest: +NORMALIZE_WHITESPACE
        "Kendall's tau of inherited and retrained accuracy: 0.60 (95% interval 0.20 to 0.80,
        p = 0.03) on 9 random architectures"
    """
    count = len(ranks.pairs)
    what = "Kendall's tau of inherited and retrained accuracy"
    if ranks.tau is None:
        return f"{what}: none, one of them is the same for all {count} random architectures"
    return (
        f"{what}: {ranks.tau:.2f} (95% interval {ranks.low:.2f} to {ranks.high:.2f}, p = "
        f"{ranks.pvalue:.2g}) on {count} random architectures"
    )
