"""What a picture shows, before anything draws it: numbers that a test can check."""

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
"""Of Okabe and Ito's palette, which the colour-blind tell apart."""


class Grid(NamedTuple):
    """A table of colours; darker is more, on a logarithmic scale, as counts differ by thousands.

    Attributes:
        rows: Names, from the top.
        columns: Names, from the left.
        values: A number for each cell, by row.
        texts: What is written into each cell, by row.
        unit: What the numbers are.
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
    """Points; ``texts`` say what each of them is."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: Color
    symbol: Symbol = "dot"
    texts: Sequence[str] = ()


def text_sides(points: Points) -> list[Literal["left", "center", "right"]]:
    """To which side of each point its text goes, so that none leaves the picture.

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
    """A line; it holds its height until its next point if it has ``steps``."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: Color
    dashed: bool = False
    steps: bool = False


class Band(NamedTuple):
    """What lies between two lines; both hold their height until the next point with ``steps``."""

    name: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: Color
    steps: bool = False


Mark = Grid | Bars | Points | Line | Band


class Axis(NamedTuple):
    """An axis.

    Attributes:
        title: What it shows, with its unit.
        percent: Whether its numbers are shares, shown in percent.
        zero: Whether it begins at 0.
        whole: Whether it counts, so that nothing is between its numbers.
    """

    title: str
    percent: bool = False
    zero: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        name: Name of its file, and its id in optuna-dashboard.
        title: What it shows.
        caption: How to read it, in a sentence or two.
        x: The horizontal axis.
        y: The vertical axis.
        marks: What is drawn, the first at the back.
    """

    name: str
    title: str
    caption: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]

    @property
    def rows(self) -> int:
        """Rows of its grid, or its bars."""
        tall = [mark for mark in self.marks if isinstance(mark, Grid | Bars)]
        return sum(len(m.rows if isinstance(m, Grid) else m.labels) for m in tall)

    @property
    def height(self) -> int:
        """Pixels that it needs."""
        return max(380, 130 + 22 * self.rows)
