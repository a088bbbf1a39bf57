"""Charts as a static SVG: the same on every machine, for a document rather than a screen."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterable, Sequence

from tfbatch.charts import Chart, Series, Stack
from tfbatch.charts.colors import PALETTE, color

WIDTH = 880
_LEFT, _RIGHT, _TOP, _GAP, _BOTTOM = 72, 20, 22, 22, 46
_PANEL, _LAST_PANEL = 150, 250
_LETTER = 6.7
"""Pixels of a letter, about: SVG cannot measure text."""
_ROW = 20


def svg(picture: Chart | Stack) -> str:
    """The text of an SVG file, on white.

    Args:
        picture: A chart with numbers on both axes, or several over one horizontal axis. Shades,
            rows by name and further units are for the screen alone.
    """
    charts = picture.charts if isinstance(picture, Stack) else (picture,)
    heights = [*([_PANEL] * (len(charts) - 1)), _LAST_PANEL]
    entries = _legend(charts)
    rows = _legend_rows(entries)
    inner = sum(heights) + _GAP * (len(charts) - 1)
    height = _TOP + inner + _BOTTOM + _ROW * rows + 6
    drawing = _Drawing()
    x = _x_axis(charts)
    top = float(_TOP)
    for chart, panel in zip(charts, heights, strict=True):
        _panel(drawing, chart, x, top, top + panel, is_last=chart is charts[-1])
        top += panel + _GAP
    _draw_legend(drawing, entries, _TOP + inner + _BOTTOM)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="sans-serif" font-size="12" fill="{color("ink")}">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *drawing.elements,
            "</svg>\n",
        ]
    )


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Maps a number to a place."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether it can be drawn."""
        return math.isfinite(value) and (value > 0 or not self.log)


class _Drawing:
    """The elements of an SVG, in the order in which they are drawn."""

    def __init__(self) -> None:
        self.elements: list[str] = []

    def text(
        self, x: float, y: float, text: str, *, anchor: str = "middle", more: str = ""
    ) -> None:
        self.elements.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>'
            f"{html.escape(text, quote=False)}</text>"
        )

    def path(self, points: Iterable[tuple[float, float]], stroke: str, *, more: str = "") -> None:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.elements.append(f'<polyline points="{places}" fill="none" stroke="{stroke}" {more}/>')

    def area(self, points: Iterable[tuple[float, float]], fill: str) -> None:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.elements.append(f'<polygon points="{places}" fill="{fill}"/>')

    def mark(self, x: float, y: float, shape: str, stroke: str, about: str = "") -> None:
        r, base = 4.0, shape.removesuffix("-open")
        fill = "none" if base != shape or base == "x" else stroke
        d = r + 1
        places = {
            "diamond": f"M{x:.1f} {y - d:.1f}l{d} {d}l-{d} {d}l-{d} -{d}z",
            "square": f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h-{2 * r}z",
            "x": f"M{x - r:.1f} {y - r:.1f}l{2 * r} {2 * r}m-{2 * r} 0l{2 * r} -{2 * r}",
        }
        style = f'fill="{fill}" stroke="{stroke}" stroke-width="1.5"'
        title = f"<title>{html.escape(about)}</title>" if about else ""
        if base in places:
            self.elements.append(f'<path d="{places[base]}" {style}>{title}</path>')
        else:
            self.elements.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" {style}>{title}</circle>'
            )


def _x_axis(charts: Sequence[Chart]) -> _Axis:
    log = charts[-1].log_x
    values = [v for c in charts for s in c.series for v in s.x if not log or v > 0]
    places = [math.log10(v) if log else v for v in values] or [0.0]
    room = 0.04 * (max(places) - min(places)) or 0.5
    return _Axis(min(places) - room, max(places) + room, _LEFT, WIDTH - _RIGHT, log)


def _y_axis(chart: Chart, top: float, bottom: float) -> _Axis:
    parts = (part for s in chart.series for part in (s.y, s.low, s.high) if part is not None)
    values = [v for part in parts for v in part if math.isfinite(v) and (v > 0 or not chart.log_y)]
    low, high = chart.y_limits or (min(values, default=0.0), max(values, default=1.0))
    if chart.log_y:
        low, high = math.log10(low), math.log10(high)
    elif chart.y_limits is None and chart.from_zero:
        low = min(low, 0.0)
    room = 0.06 * (high - low) or 0.5
    if chart.y_limits is None:
        low, high = (low if low == 0 else low - room), high + room
    return _Axis(low, high, bottom, top, chart.log_y)


def _panel(
    drawing: _Drawing, chart: Chart, x: _Axis, top: float, bottom: float, *, is_last: bool
) -> None:
    y = _y_axis(chart, top, bottom)
    # What lies outside of the limits ends at the frame.
    drawing.elements.append(
        f'<clipPath id="panel-{top:.0f}"><rect x="{_LEFT}" y="{top:.1f}" '
        f'width="{WIDTH - _LEFT - _RIGHT}" height="{bottom - top:.1f}"/></clipPath>'
    )
    for value in _ticks(y):
        place = y(value)
        drawing.path([(_LEFT, place), (WIDTH - _RIGHT, place)], color("grid"))
        drawing.text(_LEFT - 8, place + 4, f"{value:,g}", anchor="end")
    middle = (top + bottom) / 2
    turned = f'transform="rotate(-90 16 {middle:.1f})"'
    drawing.text(16, middle, chart.y_label, more=turned)
    if is_last:
        for value in chart.x_ticks or _ticks(x):
            drawing.text(x(value), bottom + 17, f"{value:,g}")
        drawing.text((_LEFT + WIDTH - _RIGHT) / 2, bottom + 36, chart.x_label)
    drawing.elements.append(f'<g clip-path="url(#panel-{top:.0f})">')
    for band in chart.bands:
        ends = (band.low, band.high)
        low, high = (
            (max(min(y(v), bottom), top) for v in ends) if band.across == "y" else map(x, ends)
        )
        left, right = float(_LEFT), float(WIDTH - _RIGHT)
        corners = [(left, low), (right, low), (right, high), (left, high)]
        if band.across == "x":
            corners = [(low, top), (high, top), (high, bottom), (low, bottom)]
        drawing.area(corners, color("band"))
    for number, series in enumerate(chart.series):
        _series(drawing, series, color(series.role or PALETTE[number % len(PALETTE)]), x, y)
    drawing.elements.append("</g>")
    for level, mark in enumerate(sorted(chart.marks, key=lambda mark: mark.x)):
        place, stroke = x(mark.x), color(mark.role or "quiet")
        drawing.path([(place, top), (place, bottom)], stroke, more='stroke-dasharray="2 3"')
        anchor, shift = ("end", -5) if place > WIDTH / 2 else ("start", 5)
        fill = f'fill="{stroke}"'
        drawing.text(place + shift, top + 12 + 15 * level, mark.label, anchor=anchor, more=fill)


def _series(drawing: _Drawing, series: Series, stroke: str, x: _Axis, y: _Axis) -> None:
    points = [(a, b) for a, b in zip(series.x, series.y, strict=True) if x.holds(a) and y.holds(b)]
    ends = list(zip(series.x, series.low or (), series.high or (), strict=False))
    known = [(a, low, high) for a, low, high in ends if y.holds(low) and y.holds(high)]
    if series.kind == "dashed" and known:
        edge = [(x(a), y(high)) for a, _, high in known]
        edge += [(x(a), y(low)) for a, low, _ in reversed(known)]
        drawing.area(edge, color("prediction"))
    elif known:
        for a, low, high in known:
            drawing.path([(x(a), y(low)), (x(a), y(high))], stroke, more='stroke-width="1.5"')
    if series.kind in ("line", "dashed", "points and line"):
        dash = ' stroke-dasharray="6 4"' if series.kind == "dashed" else ""
        places = [(x(a), y(b)) for a, b in points]
        drawing.path(places, stroke, more=f'stroke-width="2"{dash}')
    if series.kind in ("points", "points and line"):
        for a, b in points:
            about = f"{series.name}: {b:.4g} at {a:g}"
            drawing.mark(x(a), y(b), series.symbol, stroke, about)


def _ticks(axis: _Axis) -> list[float]:
    """Four to seven round values, or powers of ten with 2 and 5 between."""
    if axis.log:
        powers = range(math.floor(axis.low), math.ceil(axis.high) + 1)
        values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        return [v for v in values if axis.low <= math.log10(v) <= axis.high]
    span = axis.high - axis.low
    unit = 10.0 ** math.floor(math.log10(span / 4))
    step = next(n * unit for n in (1, 2, 2.5, 5, 10) if span / (n * unit) <= 7)
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One entry of the legend."""

    name: str
    stroke: str
    line: bool
    dashed: bool
    symbol: str


def _legend(charts: Sequence[Chart]) -> list[_Entry]:
    found: dict[str, _Entry] = {}
    for chart in charts:
        for number, series in enumerate(chart.series):
            stroke = color(series.role or PALETTE[number % len(PALETTE)])
            points = series.kind in ("points", "points and line")
            found.setdefault(
                series.name,
                _Entry(
                    series.name,
                    stroke,
                    series.kind != "points",
                    series.kind == "dashed",
                    series.symbol if points else "",
                ),
            )
        for band in chart.bands:
            found.setdefault(band.label, _Entry(band.label, color("band"), False, False, "band"))
    return list(found.values())


def _places(entries: Sequence[_Entry]) -> list[tuple[int, float]]:
    """Row and horizontal place of each entry."""
    found, row, x = [], 0, float(_LEFT)
    for entry in entries:
        width = 30 + _LETTER * len(entry.name) + 16
        if x + width > WIDTH and x > _LEFT:
            row, x = row + 1, float(_LEFT)
        found.append((row, x))
        x += width
    return found


def _legend_rows(entries: Sequence[_Entry]) -> int:
    return 1 + max((row for row, _ in _places(entries)), default=0)


def _draw_legend(drawing: _Drawing, entries: Sequence[_Entry], top: float) -> None:
    for entry, (row, x) in zip(entries, _places(entries), strict=True):
        y = top + _ROW * row + 8
        if entry.symbol == "band":
            drawing.area([(x, y - 6), (x + 22, y - 6), (x + 22, y + 6), (x, y + 6)], entry.stroke)
        if entry.line:
            dash = ' stroke-dasharray="6 4"' if entry.dashed else ""
            drawing.path([(x, y), (x + 22, y)], entry.stroke, more=f'stroke-width="2"{dash}')
        if entry.symbol not in ("", "band"):
            drawing.mark(x + 11, y, entry.symbol, entry.stroke)
        drawing.text(x + 28, y + 4, entry.name, anchor="start")
