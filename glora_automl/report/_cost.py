"""Cost of a study, as a picture and as a table."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

from glora_automl.report._picture import Axis, Bars, Picture
from glora_automl.report._snapshot import Snapshot
from glora_automl.report._tables import TextTable
from glora_automl.study import STAGES, Cost, Stage, stage_costs

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
    """Return the costs by stage and worker, with their total in the last line.

    A figure that no worker measured, such as the energy of a GPU, has no column. Without costs
    the table has no lines.

    Example:
        >>> costs = [Cost(Stage.SUPERNET, "host-1", 1, 12.5, 600)]
        >>> cost_table(costs)  # doctest: +NORMALIZE_WHITESPACE
        TextTable(columns=('stage', 'worker', 'times', 'seconds', 'images'),
                  lines=[('supernet', 'host-1', '1', '12.5', '600'),
                         ('total', '1 worker', '1', '12.5', '600')])
    """
    if not costs:
        return TextTable(_COLUMNS[:5], [])
    n_workers = len({cost.worker for cost in costs})
    workers = f"{n_workers} worker{'s' * (n_workers != 1)}"
    lines = [(str(cost.stage), cost.worker, *_figures(cost)) for cost in costs]
    lines.append(("total", workers, *_figures(functools.reduce(Cost.plus, costs))))
    measured = [any(line[i] != _UNKNOWN for line in lines) for i in range(len(_COLUMNS))]
    columns, *kept = (tuple(itertools.compress(line, measured)) for line in (_COLUMNS, *lines))
    return TextTable(columns, kept)


def _figures(cost: Cost) -> tuple[str, ...]:
    return (
        f"{cost.times:,}",
        f"{cost.seconds:,.1f}",
        f"{cost.n_images:,}" if cost.n_images else _UNKNOWN,
        _UNKNOWN if cost.peak_mib is None else f"{cost.peak_mib:,.0f}",
        _UNKNOWN if cost.gpu_mib is None else f"{cost.gpu_mib:,.0f}",
        _UNKNOWN if cost.joules is None else f"{cost.joules / 1000:,.2f}",
    )


def cost_picture(snapshot: Snapshot) -> Picture | None:
    """Show the seconds per stage."""
    spent: dict[Stage, float] = {}
    for cost in stage_costs(snapshot.study):
        spent[cost.stage] = spent.get(cost.stage, 0.0) + cost.seconds
    if not spent:
        return None
    order = [stage for stage in STAGES if stage in spent]
    return Picture(
        name="cost",
        title=f"Cost by stage: {sum(spent.values()):,.0f} seconds in total",
        caption="Seconds per stage, summed over all workers.",
        x=Axis("seconds", zero=True),
        y=Axis("stage"),
        marks=(
            Bars(
                "seconds",
                list(map(str, order)),
                [round(spent[stage], 2) for stage in order],
                "blue",
            ),
        ),
    )
