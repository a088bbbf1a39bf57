"""What is to be drawn, as plain numbers; tfbatch.charts.page draws it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tfbatch.errors import InputError


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
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    kind: Literal["points", "line", "dashed", "points and line", "bars"] = "points and line"

    def __post_init__(self) -> None:
        lengths = [len(part) for part in (self.x, self.y, self.low, self.high) if part is not None]
        if len(set(lengths)) > 1:
            raise InputError(
                f"`x`, `y`, `low` and `high` must have the same length. Received: {lengths}."
            )


@dataclasses.dataclass(frozen=True)
class Mark:
    """A labeled vertical line.

    Attributes:
        x: Where.
        label: A few words, such as "knee 64".
    """

    x: float
    label: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """One picture.

    Attributes:
        title: What it shows.
        x_label: Quantity and unit of the horizontal axis.
        y_label: Quantity and unit of the vertical axis.
        series: What is drawn.
        marks: Labelled vertical lines.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is logarithmic.
        x_ticks: Where the horizontal axis has its ticks, such as the measured batch sizes; or None.
        y_limits: Ends of the vertical axis, finite and ascending, where some values are beyond
            interest, such as the losses of a divergence; or None.
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
