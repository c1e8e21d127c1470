"""Candidates for the backbone, as a table."""

from __future__ import annotations

from glora_automl.report._tables import TextTable
from glora_automl.study import RankingOutcome

__all__ = ["ranking_table"]


def ranking_table(ranking: RankingOutcome) -> TextTable:
    """Return the candidates, the best first and those that cannot be used last.

    Example:
        >>> from glora_automl.study import RankedBackbone
        >>> rows = RankedBackbone("resnet18", reason="too slow"), RankedBackbone("vit", 9, 1.5, 0.5)
        >>> for line in ranking_table(RankingOutcome(rows, 1, 80, "cpu")).lines:
        ...     print(line)
        ('vit', '9', '1.5', '50.0', 'chosen')
        ('resnet18', '–', '–', '–', 'too slow')
    """
    order = sorted(
        range(len(ranking.rows)),
        key=lambda place: (place != ranking.chosen, -(ranking.rows[place].accuracy or 0.0)),
    )
    columns = ("backbone", "parameters", "ms per image", "leave-one-out %", "")
    lines: list[tuple[str, ...]] = []
    for place in order:
        row = ranking.rows[place]
        lines.append(
            (
                row.name,
                "–" if row.n_params is None else f"{row.n_params:,}",
                "–" if row.latency_ms is None else f"{row.latency_ms:,.1f}",
                "–" if row.accuracy is None else f"{row.accuracy:.1%}".rstrip("%"),
                "chosen" if place == ranking.chosen else row.reason or "",
            )
        )
    return TextTable(columns, lines)
