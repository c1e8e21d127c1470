"""Drawing of pictures with matplotlib, as PNG files."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from glora_automl._extras import require
from glora_automl._files import check_output, make_folder, write_atomic
from glora_automl.errors import ReportError
from glora_automl.report._picture import COLORS, Band, Bars, Grid, Line, Mark, Picture, text_sides

__all__ = ["save_png", "to_matplotlib"]

_PROGRAM = "glora_automl"
"""Mark of a picture, which may be replaced by a newer one."""

_DPI = 110
_SYMBOLS = {"dot": "o", "cross": "x", "star": "*", "diamond": "D"}


def to_matplotlib(picture: Picture) -> Any:
    """Return a picture as a figure of matplotlib, which has no state of pyplot.

    Raises:
        ReportError: If matplotlib is not installed.
    """
    module = require("matplotlib.figure", "png", ReportError, "PNG pictures")
    size = (800 / _DPI, picture.height / _DPI)
    figure = module.Figure(figsize=size, dpi=_DPI, layout="constrained")  # pyplot keeps state
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    rows = 0
    bars = [mark for mark in picture.marks if isinstance(mark, Bars)]
    for mark in picture.marks:
        if isinstance(mark, Bars):
            rows = _draw_bars(axes, mark, bars, rows)
        elif isinstance(mark, Grid):
            _draw_grid(figure, axes, mark)
        else:
            _draw(axes, mark)
    _finish(axes, picture)
    return figure


def save_png(picture: Picture, folder: Path) -> Path:
    """Write a picture as ``<name>.png``, without a display or a browser.

    Raises:
        ReportError: If matplotlib is not installed.
        StorageError: If the file cannot be written.
    """
    figure = to_matplotlib(picture)
    from matplotlib import rc_context

    make_folder(folder, "png")
    path = folder / f"{picture.name}.png"
    check_output(path, "png", ReportError, _PROGRAM.encode())

    def write(file: Path) -> None:
        with rc_context({"text.parse_math": False}):  # a name with two dollar signs is no formula
            figure.savefig(file, format="png", metadata={"Software": _PROGRAM})

    write_atomic(path, write)
    return path


def _finish(axes: Any, picture: Picture) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    title = "\n".join(textwrap.wrap(picture.title, 70))
    axes.figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    axes.set_xlabel(picture.x.title)
    axes.set_ylabel(picture.y.title)
    grid = any(isinstance(mark, Grid) for mark in picture.marks)
    bars = any(isinstance(mark, Bars) for mark in picture.marks)
    if not grid:
        axes.grid(axis="x" if bars else "both", color="#e5e5e5")
        for drawn, axis in ((axes.xaxis, picture.x), (axes.yaxis, picture.y)):
            if drawn is axes.yaxis and bars:
                continue
            style = (lambda v, _: f"{v:.0%}") if axis.percent else (lambda v, _: f"{v:,.10g}")
            drawn.set_major_formatter(FuncFormatter(style))
            if axis.whole:
                drawn.set_major_locator(MaxNLocator(integer=True))
        if picture.x.zero:
            axes.set_xlim(left=0 if bars else min(0, axes.get_xlim()[0]))
        if picture.y.zero and not bars:
            axes.set_ylim(bottom=0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    if len(picture.marks) > 1:
        # Above the axes: inside, it could cover points.
        axes.legend(
            frameon=False, fontsize=9, ncols=4, loc="lower left", bbox_to_anchor=(0, 1),
            borderaxespad=0.2, borderpad=0,
        )  # fmt: skip


def _draw_bars(axes: Any, mark: Bars, others: list[Bars], rows: int) -> int:
    """Draw bars below ``rows`` rows, or beside earlier bars with the same labels.

    Returns:
        The number of rows so far.
    """
    group = [other for other in others if list(other.labels) == list(mark.labels)]
    place = next(i for i, other in enumerate(group) if other is mark)
    start = rows if place == 0 else rows - len(mark.labels)
    height = 0.75 / len(group)
    at = [start + i + (place - (len(group) - 1) / 2) * height for i in range(len(mark.labels))]
    axes.barh(at, list(mark.values), height, color=COLORS[mark.color], label=mark.name)
    end = start + len(mark.labels)
    ticks = [*axes.get_yticks()] if start else []
    names = [t.get_text() for t in axes.get_yticklabels()] if start else []
    if place == 0:
        axes.set_yticks([*ticks[:start], *range(start, end)], [*names[:start], *mark.labels])
        axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(end - 0.4, -0.6)
    return end


def _draw_grid(figure: Any, axes: Any, mark: Grid) -> None:
    from matplotlib.colors import FuncNorm, LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list(
        "counts", [(0, "#ffffff"), (0.1, "#deebf7"), (0.55, "#6baed6"), (1, "#08306b")]
    )
    import numpy as np

    values = np.array(mark.values)
    most = max(int(values.max(initial=0)), 9)
    norm = FuncNorm((np.log1p, np.expm1), vmin=0, vmax=most)
    image = axes.imshow(values, cmap=colors, norm=norm, aspect="auto")
    axes.set_xticks(range(len(mark.columns)), mark.columns)
    axes.set_yticks(range(len(mark.rows)), mark.rows, fontsize=8)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    for row, texts in enumerate(mark.texts):
        for column, text in enumerate(texts):
            dark = norm(values[row, column]) > 0.6
            axes.text(
                column, row, text, ha="center", va="center", fontsize=8,
                color="white" if dark else "black",
            )  # fmt: skip
    ticks = [10**power for power in range(len(str(most)))]
    bar = figure.colorbar(image, ax=axes, ticks=ticks, label=mark.unit)
    bar.ax.set_yticklabels([f"{tick:,}" for tick in ticks])
    bar.ax.minorticks_off()


def _draw(axes: Any, mark: Mark) -> None:
    assert not isinstance(mark, Bars | Grid)
    color = COLORS[mark.color]
    if isinstance(mark, Line):
        style = "steps-post" if mark.steps else "default"
        axes.plot(
            mark.x, mark.y, color=color, drawstyle=style, label=mark.name,
            linestyle="--" if mark.dashed else "-",
        )  # fmt: skip
    elif isinstance(mark, Band):
        axes.fill_between(
            mark.x, mark.low, mark.high, step="post" if mark.steps else None, color=color,
            alpha=0.25, lw=0, label=mark.name,
        )  # fmt: skip
    else:
        big = mark.symbol in ("star", "diamond")
        axes.scatter(
            mark.x, mark.y, s=60 if big else 14, marker=_SYMBOLS[mark.symbol], color=color,
            alpha=1 if big else 0.6, label=mark.name, zorder=3 if big else 2,
        )  # fmt: skip
        if big:
            axes.margins(y=0.12)  # room for the text above the highest point
            # Marks that the legend names have no texts.
            # matplotlib names the side of the text that is fixed, not where the text extends.
            fixed = {"left": "right", "center": "center", "right": "left"}
            for x, y, text, side in zip(mark.x, mark.y, mark.texts, text_sides(mark), strict=False):
                axes.annotate(
                    text, (x, y), xytext=(0, 7), textcoords="offset points", ha=fixed[side],
                    fontsize=8,
                )  # fmt: skip
