"""Drawing of pictures with plotly, for browsers."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from glora_automl.report._picture import (
    COLORS,
    Axis,
    Band,
    Bars,
    Grid,
    Line,
    Mark,
    Picture,
    text_sides,
)

__all__ = ["CARD", "to_figure"]

_MARGINS = 120
"""Height of the margins around a grid, in pixels."""

_ROW = 14
"""Height of a row whose texts are readable, in pixels."""

_MIN_SPAN = 8
"""Span of an integer axis below which plotly places ticks between integers."""

_SYMBOLS = {"dot": "circle", "cross": "x", "star": "star", "diamond": "diamond"}

CARD = 450
"""Height of a figure in optuna-dashboard, in pixels; the dashboard crops a higher one."""


def to_figure(picture: Picture, *, height: int | None = None) -> go.Figure:
    """Return a picture as a plotly figure.

    The figure has plain lists, because optuna-dashboard may not read plotly's binary arrays.

    Args:
        picture: The picture.
        height: Height in pixels; None takes the picture's. A grid without enough height shows its
            texts only under the pointer.
    """
    height = height or picture.height
    tight = height - _MARGINS < _ROW * picture.rows
    figure = go.Figure(layout={"template": "none"})
    for mark in picture.marks:
        for trace in _traces(mark):
            figure.add_trace(trace)
    if tight:
        figure.update_traces(texttemplate="", selector={"type": "heatmap"})
    figure.update_layout(
        title={"text": picture.title, "font": {"size": 15}, "x": 0.02, "xanchor": "left"},
        height=height,
        margin={"l": 70, "r": 20, "t": 60, "b": 50},
        barmode="group",
        bargap=0.25,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        showlegend=len(picture.marks) > 1,
        xaxis=_axis(picture.x),
        yaxis=_axis(picture.y),
        hovermode="closest",
    )
    if any(isinstance(mark, Grid | Bars) for mark in picture.marks):
        figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
        if height < picture.height:
            figure.update_yaxes(tickfont={"size": 9})
    if picture.x.whole and max(_span(mark) for mark in picture.marks) < _MIN_SPAN:
        figure.update_xaxes(dtick=1)
    if any(isinstance(mark, Grid) for mark in picture.marks):
        figure.update_xaxes(type="category", showgrid=False)
    return figure


def _span(mark: Mark) -> float:
    x = [] if isinstance(mark, Grid | Bars) else mark.x
    return max(x, default=0) - min(x, default=0)


def _axis(axis: Axis) -> dict[str, Any]:
    return {
        "title": {"text": axis.title, "standoff": 8},
        "automargin": True,
        "tickformat": ".0%" if axis.percent else ",",
        "rangemode": "tozero" if axis.zero else "normal",
        "zeroline": False,
        "gridcolor": "#e5e5e5",
    }


def _traces(mark: Mark) -> list[Any]:
    if isinstance(mark, Grid):
        return [_heatmap(mark)]
    color = COLORS[mark.color]
    if isinstance(mark, Bars):
        return [
            go.Bar(
                name=mark.name,
                x=list(mark.values),
                y=list(mark.labels),
                orientation="h",
                marker={"color": color},
            )
        ]
    if isinstance(mark, Line):
        line = {
            "color": color,
            "width": 2,
            "dash": "dash" if mark.dashed else "solid",
            "shape": "hv" if mark.steps else "linear",
        }
        x, y = list(mark.x), list(mark.y)
        return [go.Scatter(name=mark.name, x=x, y=y, mode="lines", line=line)]
    if isinstance(mark, Band):
        line = {"width": 0, "shape": "hv" if mark.steps else "linear"}
        shared = {"x": list(mark.x), "mode": "lines", "line": line, "hoverinfo": "skip"}
        low = go.Scatter(y=list(mark.low), showlegend=False, **shared)
        high = go.Scatter(
            name=mark.name, y=list(mark.high), fill="tonexty", fillcolor=f"{color}40", **shared
        )
        return [low, high]
    big = mark.symbol in ("star", "diamond")
    return [
        go.Scatter(
            name=mark.name,
            x=list(mark.x),
            y=list(mark.y),
            mode="markers+text" if big else "markers",
            text=list(mark.texts),
            textposition=[f"top {side}" for side in text_sides(mark)],
            marker={
                "color": color,
                "size": 11 if big else 6,
                "symbol": _SYMBOLS[mark.symbol],
                "opacity": 1.0 if big else 0.6,
            },
        )
    ]


def _heatmap(grid: Grid) -> go.Heatmap:
    most = max((value for row in grid.values for value in row), default=0)
    ticks = [10**power for power in range(len(str(max(most, 1))))]
    return go.Heatmap(
        x=list(grid.columns),
        y=list(grid.rows),
        z=[[round(math.log10(1 + value), 3) for value in row] for row in grid.values],
        zmin=0,
        zmax=round(math.log10(1 + max(most, 9)), 3),
        colorscale=[[0, "#ffffff"], [0.1, "#deebf7"], [0.55, "#6baed6"], [1, "#08306b"]],
        text=[list(row) for row in grid.texts],
        texttemplate="%{text}",
        customdata=[list(row) for row in grid.values],
        hovertemplate="%{y}.%{x}: %{text}, %{customdata:,} " + grid.unit + "<extra></extra>",
        xgap=1,
        ygap=1,
        colorbar={
            "title": {"text": grid.unit, "side": "right"},
            "tickvals": [round(math.log10(1 + tick), 3) for tick in ticks],
            "ticktext": [f"{tick:,}" for tick in ticks],
        },
    )
