"""What is to be drawn, as plain numbers; tfbatch.charts.plotly_figure draws it."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from tfbatch.errors import InputError

Role = Literal["recommended", "baseline", "best", "candidate", "other", "failed", "predicted"]
"""What a series stands for in an answer: it gives the color, the same on every chart."""
Symbol = Literal["circle", "circle-open", "diamond", "diamond-open", "square", "x"]


@dataclasses.dataclass(frozen=True)
class Series:
    """One line or set of points.

    Attributes:
        name: Its name in the legend. A prediction's begins with "predicted".
        x: Where, in the chart's unit.
        y: The values, as many; one that is not finite leaves a gap.
        low: Lower ends of the error bars, as many; or None.
        high: Upper ends of the error bars, as many; or None.
        kind: "points", "line", "dashed" (for what is fitted or predicted), "points and line", or
            "bars".
        role: What it stands for; None takes the next color of the palette.
        about: What the pointer shows at each point beside its place; or None.
        shades: Numbers that give each point its color, as many; or None. The chart names them.
        symbol: The mark of its points.
        in_other_units: The horizontal places in each of the chart's further units.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    kind: Literal["points", "line", "dashed", "points and line", "bars"] = "points and line"
    role: Role | None = None
    about: tuple[str, ...] | None = None
    shades: tuple[float, ...] | None = None
    symbol: Symbol = "circle"
    in_other_units: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        parts = (self.x, self.y, self.low, self.high, self.about, self.shades, *self.in_other_units)
        lengths = [len(part) for part in parts if part is not None]
        if len(set(lengths)) > 1:
            raise InputError(
                "`x`, `y`, `low`, `high`, `about`, `shades` and each of `in_other_units` must have "
                f"the same length. Received: {lengths}."
            )


@dataclasses.dataclass(frozen=True)
class Mark:
    """A labeled vertical line.

    Attributes:
        x: Where.
        label: A few words, such as "knee 64".
        role: What it stands for, or None.
    """

    x: float
    label: str
    role: Role | None = None


@dataclasses.dataclass(frozen=True)
class Band:
    """A shaded range.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        label: A few words.
        across: "y" for a range of values, drawn from the left to the right; "x" for one of the
            horizontal axis.
    """

    low: float
    high: float
    label: str
    across: Literal["x", "y"] = "y"


@dataclasses.dataclass(frozen=True)
class Chart:
    """One picture.

    Attributes:
        title: What it shows.
        x_label: Quantity and unit of the horizontal axis.
        y_label: Quantity and unit of the vertical axis.
        series: What is drawn.
        marks: Labeled vertical lines.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is logarithmic.
        x_ticks: Where the horizontal axis has its ticks, such as the measured batch sizes; or None.
        y_limits: Ends of the vertical axis, finite and ascending, where some values are beyond
            interest, such as the losses of a divergence; or None.
        bands: Shaded ranges.
        other_x_labels: Further units of the horizontal axis; one switch changes between them.
        y_names: Names of the places 0, 1, 2... of the vertical axis, from the top; or None.
        names_above: Whether these names stand above their rows instead of beside them, where they
            are long; each may have a second, smaller line.
        shade_label: What the shades of its series are.
        shade_ends: The values of the darkest and of the lightest shade, the first may be the
            larger; None for the least and the largest.
        from_zero: Whether a vertical axis that is not logarithmic begins at 0.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()
    log_x: bool = True
    log_y: bool = True
    x_ticks: tuple[float, ...] | None = None
    y_limits: tuple[float, float] | None = None
    bands: tuple[Band, ...] = ()
    other_x_labels: tuple[str, ...] = ()
    y_names: tuple[str, ...] | None = None
    names_above: bool = False
    shade_label: str = ""
    shade_ends: tuple[float, float] | None = None
    from_zero: bool = True

    def __post_init__(self) -> None:
        counts = {len(series.in_other_units) for series in self.series} - {len(self.other_x_labels)}
        if counts:
            raise InputError(
                f"Every series must be given in the chart's {len(self.other_x_labels)} further "
                f"units. Received: {counts.pop()}."
            )


@dataclasses.dataclass(frozen=True)
class Stack:
    """Charts above one another over one horizontal axis, that of the last.

    Attributes:
        title: What it shows.
        charts: From the top to the bottom, at least one; the last one is the tallest.
    """

    title: str
    charts: tuple[Chart, ...]

    def __post_init__(self) -> None:
        if not self.charts:
            raise InputError("`charts` must hold at least one chart. Received: none.")


@dataclasses.dataclass(frozen=True)
class ParallelAxis:
    """One axis of parallel coordinates.

    Attributes:
        label: Its quantity.
        values: A number for each line; of an axis of names, the place of its name.
        names: The names, where it is no axis of numbers.
        log: Whether it is logarithmic.
    """

    label: str
    values: tuple[float, ...]
    names: tuple[str, ...] = ()
    log: bool = False


@dataclasses.dataclass(frozen=True)
class ParallelCoordinates:
    """One line for each trial, through all axes.

    Attributes:
        title: What it shows.
        axes: The axes, from the left to the right; the last one gives the color.
        shade_ends: See `Chart`.
    """

    title: str
    axes: tuple[ParallelAxis, ...]
    shade_ends: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        lengths = {len(axis.values) for axis in self.axes}
        if len(lengths) != 1:
            raise InputError(
                f"`axes` must hold as many values each. Received: {sorted(lengths)} of "
                f"{len(self.axes)} axes."
            )


Picture = Chart | Stack | ParallelCoordinates
"""Anything that can be drawn."""


def finite(values: tuple[float, ...]) -> list[float | None]:
    """The values as JSON has them: null where one is not finite."""
    return [value if math.isfinite(value) else None for value in values]
