"""Content of a picture: titles and numbers, independent of the drawing library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = [
    "COLORS",
    "Axis",
    "Band",
    "Bars",
    "Color",
    "Grid",
    "Line",
    "Mark",
    "Picture",
    "Points",
    "Symbol",
    "text_sides",
]

Symbol = Literal["dot", "cross", "star", "diamond"]
Color = Literal["blue", "orange", "green", "red", "grey", "black"]

COLORS: dict[Color, str] = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "grey": "#999999",
    "black": "#000000",
}
"""Palette of Okabe and Ito (2008), safe for colour-blind readers."""


class Grid(NamedTuple):
    """Heat map of counts on a logarithmic scale; darker cells have more.

    Attributes:
        rows: Names of the rows, from the top.
        columns: Names of the columns, from the left.
        values: Count per cell, by row.
        texts: Text per cell, by row.
        unit: Unit of the counts.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[int]]
    texts: Sequence[Sequence[str]]
    unit: str


class Bars(NamedTuple):
    """Horizontal bars, from the top."""

    name: str
    labels: Sequence[str]
    values: Sequence[float]
    color: Color


class Points(NamedTuple):
    """Points, each with a label in ``texts``."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: Color
    symbol: Symbol = "dot"
    texts: Sequence[str] = ()


def text_sides(points: Points) -> list[Literal["left", "center", "right"]]:
    """Return the side of each point on which its text stays inside the picture.

    Example:
        >>> text_sides(Points("p", [0, 5, 9], [1, 1, 1], "blue"))
        ['right', 'center', 'left']
    """
    first, last = min(points.x, default=0), max(points.x, default=0)
    third = (last - first) / 3
    return [
        "right" if x < first + third else "left" if x > last - third else "center" for x in points.x
    ]


class Line(NamedTuple):
    """Line; with ``steps`` it is horizontal until the next point."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: Color
    dashed: bool = False
    steps: bool = False


class Band(NamedTuple):
    """Area between two lines; with ``steps`` they are horizontal until the next point."""

    name: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: Color
    steps: bool = False


Mark = Grid | Bars | Points | Line | Band


class Axis(NamedTuple):
    """Axis of a picture.

    Attributes:
        title: Quantity and unit.
        percent: Whether fractions are shown in percent.
        zero: Whether the axis starts at 0.
        whole: Whether ticks are integers.
    """

    title: str
    percent: bool = False
    zero: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Picture:
    """Picture of a study.

    Attributes:
        name: Name of the file, and ID in optuna-dashboard.
        title: Title.
        caption: Explanation in a few sentences.
        x: Horizontal axis.
        y: Vertical axis.
        marks: Marks in drawing order, the first at the back.
    """

    name: str
    title: str
    caption: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]

    @property
    def rows(self) -> int:
        """Number of rows of grids and bars."""
        tall = [mark for mark in self.marks if isinstance(mark, Grid | Bars)]
        return sum(len(m.rows if isinstance(m, Grid) else m.labels) for m in tall)

    @property
    def height(self) -> int:
        """Height in pixels."""
        return max(380, 130 + 22 * self.rows)
