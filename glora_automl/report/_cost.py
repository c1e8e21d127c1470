"""What a study has cost, as a picture and as lines of a table."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

from glora_automl.report._picture import Axis, Bars, Picture
from glora_automl.report._snapshot import Snapshot
from glora_automl.report._tables import TextTable
from glora_automl.study import STAGES, Cost, stage_costs

__all__ = ["cost_picture", "cost_table"]

_COLUMNS = (
    "stage",
    "worker",
    "times",
    "seconds",
    "images",
    "memory MiB",
    "GPU MiB",
    "energy kJ",
)
_UNKNOWN = "–"


def cost_table(costs: Sequence[Cost]) -> TextTable:
    """The ledger as texts, with a line for the sum; no lines if nothing was spent yet.

    What nobody could tell, such as the energy of a GPU, has no column.

    Example:
        >>> cost_table([Cost("supernet", "host-1", 1, 12.5, 600)])  # doctest: +NORMALIZE_WHITESPACE
        TextTable(columns=('stage', 'worker', 'times', 'seconds', 'images'),
                  lines=[('supernet', 'host-1', '1', '12.5', '600'),
                         ('all', '1 worker', '1', '12.5', '600')])
    """
    if not costs:
        return TextTable(_COLUMNS[:5], [])
    whole = functools.reduce(Cost.plus, costs)
    workers = len({cost.worker for cost in costs})
    total = whole._replace(stage="all", worker=f"{workers} worker{'s' * (workers != 1)}")
    lines = [_line(cost) for cost in (*costs, total)]
    told = [any(line[i] != _UNKNOWN for line in lines) for i in range(len(_COLUMNS))]
    kept = [tuple(itertools.compress(line, told)) for line in (_COLUMNS, *lines)]
    return TextTable(kept[0], kept[1:])


def _line(cost: Cost) -> tuple[str, ...]:
    return (
        cost.stage,
        cost.worker,
        f"{cost.times:,}",
        f"{cost.seconds:,.1f}",
        f"{cost.n_images:,}" if cost.n_images else _UNKNOWN,
        _UNKNOWN if cost.peak_mib is None else f"{cost.peak_mib:,.0f}",
        _UNKNOWN if cost.gpu_mib is None else f"{cost.gpu_mib:,.0f}",
        _UNKNOWN if cost.joules is None else f"{cost.joules / 1000:,.2f}",
    )


def cost_picture(snapshot: Snapshot) -> Picture | None:
    """Seconds of each stage."""
    spent: dict[str, float] = {}
    for cost in stage_costs(snapshot.study):
        spent[cost.stage] = spent.get(cost.stage, 0.0) + cost.seconds
    if not spent:
        return None
    order = [stage for stage in STAGES if stage in spent]
    return Picture(
        name="cost",
        title=f"Where {sum(spent.values()):,.0f} seconds went",
        caption="Seconds of work on each stage, of all workers together.",
        x=Axis("seconds of all workers", zero=True),
        y=Axis("stage"),
        marks=(Bars("seconds", order, [round(spent[stage], 2) for stage in order], "blue"),),
    )
