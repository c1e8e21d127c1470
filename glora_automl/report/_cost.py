"""What a study has cost, as a picture and as lines of a table."""

from __future__ import annotations

from collections.abc import Sequence

from glora_automl.report._picture import Axis, Bars, Picture
from glora_automl.report._snapshot import Snapshot
from glora_automl.study import STAGES, Cost, ledger

__all__ = ["COST_COLUMNS", "cost_lines", "cost_picture"]

COST_COLUMNS = (
    "stage",
    "worker",
    "times",
    "seconds",
    "images",
    "memory MiB",
    "GPU MiB",
    "energy kJ",
)


def cost_lines(costs: Sequence[Cost]) -> list[tuple[str, ...]]:
    """The ledger for people to read, with a line for the sum."""
    if not costs:
        return []
    whole = costs[0]
    for cost in costs[1:]:
        whole = whole.plus(cost)
    workers = len({cost.worker for cost in costs})
    total = whole._replace(stage="all", worker=f"{workers} worker{'s' * (workers != 1)}")
    return [_line(cost) for cost in (*costs, total)]


def _line(cost: Cost) -> tuple[str, ...]:
    return (
        cost.stage,
        cost.worker,
        f"{cost.times:,}",
        f"{cost.seconds:,.1f}",
        f"{cost.images:,}",
        "–" if cost.peak_mib is None else f"{cost.peak_mib:,.0f}",
        "–" if cost.gpu_mib is None else f"{cost.gpu_mib:,.0f}",
        "–" if cost.joules is None else f"{cost.joules / 1000:,.2f}",
    )


def cost_picture(snapshot: Snapshot) -> Picture | None:
    """Seconds of each stage."""
    spent: dict[str, float] = {}
    for cost in ledger(snapshot.study):
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
