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


class Line(NamedTuple):
    """A line; it holds its height until its next point if it has ``steps``."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: Color
    dashed: bool = False
    steps: bool = False


class Band(NamedTuple):
    """What lies between two lines."""

    name: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: Color


Mark = Grid | Bars | Points | Line | Band


class Axis(NamedTuple):
    """An axis.

    Attributes:
        title: What it shows, with its unit.
        percent: Whether its numbers are shares, shown in percent.
        zero: Whether it begins at 0.
    """

    title: str
    percent: bool = False
    zero: bool = False


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
    def height(self) -> int:
        """Pixels that its rows or bars need."""
        rows = sum(len(m.rows if isinstance(m, Grid) else m.labels) for m in self._tall)
        return max(380, 130 + 22 * rows)

    @property
    def _tall(self) -> list[Grid | Bars]:
        return [mark for mark in self.marks if isinstance(mark, Grid | Bars)]
