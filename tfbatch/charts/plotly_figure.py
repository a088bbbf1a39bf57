"""Charts as figures of Plotly: what `Plotly.newPlot` takes, as JSON.

A color is written as "@NAME" and means the page's style `--NAME`, so that one figure serves a light
and a dark page. Everything else is Plotly's own schema (https://plotly.com/javascript/reference).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tfbatch.charts import (
    Band,
    Chart,
    Mark,
    ParallelAxis,
    ParallelCoordinates,
    Picture,
    Series,
    Stack,
    finite,
)
from tfbatch.charts.colors import PALETTE
from tfbatch.schema import JsonObject

_PALETTE = tuple(f"@{name}" for name in PALETTE)
_MANY_DECADES = 3.0
_MOST_DECADES = 12.0
_HEIGHT = 400
_TOP, _BOTTOM = 24, 56
"""Pixels of the margins."""
_LONGEST_LABEL = 26
_NAMED_ROW = 58
"""Height of a row whose name stands above it."""
_LAST_IS_TALLER = 1.7
_GAP = 0.06
_INTERVAL = ", interval"
_MANY_POINTS = 1000
"""A series of more is drawn by WebGL: each of its points would be an element of the page."""
_SHADES = tuple((place / 4, f"@shade-{place + 1}") for place in range(5))
"""Near to viridis, by Smith and van der Walt, which reads without color, too. The page's style has
a lighter dark end on a dark page, and a darker light end on a light one, for lines to be seen."""
_LABEL_SHARE = 0.15
"""Of the height of a chart in a stack: what a line of text takes."""


def figure(picture: Picture) -> JsonObject:
    """A picture as an object: "data" and "layout" as Plotly has them, "legend", and "units".

    "legend" has an entry for each name: "name", "traces" (their numbers), "color", "shape", "line".
    "units", for a switch, holds the labels of the horizontal axis in each of its units; each trace
    then has its places in the further ones as "in_other_units" of its `meta`.
    """
    if isinstance(picture, ParallelCoordinates):
        return _parallel(picture)
    charts = picture.charts if isinstance(picture, Stack) else (picture,)
    layout = _frame(_HEIGHT if len(charts) == 1 else _stack_height(len(charts)))
    data: list[JsonObject] = []
    for number, chart in enumerate(charts):
        _draw(chart, number, len(charts), data, layout)
    last = charts[-1]
    everything = [value for chart in charts for series in chart.series for value in series.x]
    layout["xaxis"] = {
        "title": {"text": _wrapped(last.x_label)},
        "gridcolor": "@grid",
        "zeroline": False,
        "automargin": True,
        "anchor": "y" if len(charts) == 1 else f"y{len(charts)}",
        **_x_axis(last, everything),
    }
    if last.y_names is not None:
        rows = len(last.y_names)
        height = _NAMED_ROW * (rows + 1) if last.names_above else 34 * rows
        layout |= _frame(170 + height) | {key: layout[key] for key in ("shapes", "annotations")}
        if last.names_above:
            layout["margin"] |= {"l": 16}
            layout["annotations"] += [
                _above(name, place) for place, name in enumerate(last.y_names)
            ]
    units = [_wrapped(label) for label in (last.x_label, *last.other_x_labels)]
    drawn: dict[str, Any] = {"data": data, "layout": layout, "legend": _legend(charts, data)}
    return {**drawn, "units": units} if len(units) > 1 else drawn


def _above(name: str, place: int) -> JsonObject:
    """The name of a row above it, from the left edge: beside it a phone has no room."""
    first, _, second = name.partition("\n")
    return {
        "x": 0,
        "xref": "paper",
        "y": place,
        "yref": "y",
        "text": f'{first}<br><span style="font-size:11px">{second}</span>' if second else first,
        "align": "left",
        "showarrow": False,
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 5,
        "font": {"size": 12, "color": "@ink"},
    }


def _legend(charts: Sequence[Chart], data: Sequence[JsonObject]) -> list[JsonObject]:
    """What the page lists below a figure: Plotly's own legend covers the axis on a small screen."""
    found: dict[str, dict[str, Any]] = {}
    for number, trace in enumerate(data):
        name = trace["name"].removesuffix(_INTERVAL)
        entry = found.setdefault(name, {"name": name, "traces": []})
        entry["traces"].append(number)
        if name == trace["name"]:
            entry |= _key(trace)
    entries = list(found.values())
    for band in (band for chart in charts for band in chart.bands):
        entries.append({"name": band.label, "traces": [], "color": "@band", "shape": "band"})
    return entries


def _key(trace: JsonObject) -> dict[str, Any]:
    """The color, mark and line of a trace."""
    marker, line = trace.get("marker", {}), trace.get("line", {})
    color, mode = marker.get("color"), trace.get("mode", "markers")
    return {
        "color": color if isinstance(color, str) else "@ink",
        "shape": marker.get("symbol", "square") if "markers" in mode else None,
        "line": line.get("dash") if "lines" in mode else None,
    }


def _stack_height(count: int) -> int:
    return _TOP + _BOTTOM + round(170 * (count - 1 + _LAST_IS_TALLER))


def _frame(height: int) -> dict[str, Any]:
    return {
        "font": {"color": "@ink", "family": "system-ui, sans-serif", "size": 13},
        "paper_bgcolor": "@paper",
        "plot_bgcolor": "@paper",
        "colorway": list(_PALETTE),
        "showlegend": False,
        "margin": {"l": 64, "r": 16, "t": _TOP, "b": _BOTTOM},
        "height": height,
        "hovermode": "closest",
        "shapes": [],
        "annotations": [],
    }


def _draw(chart: Chart, number: int, count: int, data: list[JsonObject], layout: Any) -> None:
    """One chart of a stack: its series, its vertical axis, its marks and bands."""
    name = "" if number == 0 else str(number + 1)
    height = (1 - _GAP * (count - 1)) / (count - 1 + _LAST_IS_TALLER)
    top = 1 - number * (height + _GAP)
    height *= _LAST_IS_TALLER if number == count - 1 else 1
    for place, series in enumerate(chart.series):
        trace = _trace(chart, series, _PALETTE[place % len(_PALETTE)])
        trace["yaxis"] = f"y{name}"
        if series.kind == "dashed" and "error_y" in trace:
            data.append(_ribbon(series, trace))
        data.append(trace)
    layout[f"yaxis{name}"] = {
        "title": {"text": chart.y_label},
        "gridcolor": "@grid",
        "zeroline": False,
        "automargin": True,
        "domain": [max(top - height, 0.0), top],
        **_y_axis(chart),
    }
    for mark in chart.marks:
        layout["shapes"].append(_line(mark, name))
        if number == 0:
            layout["annotations"].append(_label(chart, mark))
    for band in chart.bands:
        layout["shapes"].append(_range(band, name))


def _line(mark: Mark, name: str) -> JsonObject:
    color = f"@{mark.role}" if mark.role else "@quiet"
    return {
        "type": "line",
        "xref": "x",
        "yref": f"y{name} domain",
        "x0": mark.x,
        "x1": mark.x,
        "y0": 0,
        "y1": 1,
        "line": {"color": color, "width": 1.5, "dash": "dot"},
    }


def _label(chart: Chart, mark: Mark) -> JsonObject:
    """Above the picture's frame, one below another where marks are close, so that none overlap."""
    level = sorted(chart.marks, key=lambda one: one.x).index(mark)
    right = _is_at_the_right(chart, mark.x)
    return {
        "x": math.log10(mark.x) if chart.log_x else mark.x,
        "xref": "x",
        "y": 1,
        "yref": "y domain",
        "text": mark.label,
        "showarrow": False,
        "xanchor": "right" if right else "left",
        "yanchor": "top",
        "xshift": -4 if right else 4,
        "yshift": -16 * level,
        "font": {"size": 12, "color": f"@{mark.role}" if mark.role else "@ink"},
    }


def _range(band: Band, name: str) -> JsonObject:
    along = {"xref": "paper", "x0": 0, "x1": 1, "yref": f"y{name}", "y0": band.low, "y1": band.high}
    if band.across == "x":
        along = {"xref": "x", "x0": band.low, "x1": band.high, "yref": f"y{name} domain"}
        along |= {"y0": 0, "y1": 1}
    line = {"width": 0}
    return {"type": "rect", "layer": "below", "fillcolor": "@band", "line": line, **along}


def _trace(chart: Chart, series: Series, color: str) -> dict[str, Any]:
    color = f"@{series.role}" if series.role else color
    trace: dict[str, Any] = {
        "type": "bar" if series.kind == "bars" else "scatter",
        "name": series.name,
        "x": list(series.x),
        "y": finite(series.y),
        "marker": {"color": color, "size": 8, "symbol": series.symbol},
    }
    if series.low is not None and series.high is not None:
        errors = {
            "type": "data",
            "symmetric": False,
            "array": _lengths(series.y, series.high),
            "arrayminus": _lengths(series.low, series.y),
            "thickness": 1.4,
            "width": 3,
            "color": color,
        }
        if chart.y_names is not None:  # of rows the bars lie along the horizontal axis
            errors["array"] = _lengths(series.x, series.high)
            errors["arrayminus"] = _lengths(series.low, series.x)
        trace["error_x" if chart.y_names is not None else "error_y"] = errors
    if series.about is not None:
        trace["text"] = list(series.about)
        trace["hovertemplate"] = "%{text}<extra>%{fullData.name}</extra>"
    if series.shades is not None:
        trace["marker"] |= _shaded(chart, series.shades)
    if series.in_other_units:
        trace["meta"] = {"in_other_units": [list(places) for places in series.in_other_units]}
    if series.kind == "bars":
        return {**trace, "marker": {"color": color}}
    if len(series.x) > _MANY_POINTS:
        trace["type"] = "scattergl"
    mode = {"points": "markers", "points and line": "lines+markers"}.get(series.kind, "lines")
    dash = "dash" if series.kind == "dashed" else "solid"
    return {**trace, "mode": mode, "line": {"color": color, "width": 2, "dash": dash}}


def _ribbon(series: Series, trace: dict[str, Any]) -> JsonObject:
    """The interval around what is predicted: its bars would look like those of a measurement."""
    del trace["error_y"]
    ends = zip(series.x, series.low or (), series.high or (), strict=True)
    known = [(x, low, high) for x, low, high in ends if math.isfinite(low + high)]
    return {
        "type": "scatter",
        "name": f"{series.name}{_INTERVAL}",
        "x": [x for x, _, _ in known] + [x for x, _, _ in reversed(known)],
        "y": [high for _, _, high in known] + [low for _, low, _ in reversed(known)],
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": "@prediction",
        "hoverinfo": "skip",
        "showlegend": False,
        "yaxis": trace["yaxis"],
    }


def _shaded(chart: Chart, shades: Sequence[float]) -> JsonObject:
    every = [v for s in chart.series for v in s.shades or () if math.isfinite(v)]
    dark, light = chart.shade_ends or (min(every, default=0.0), max(every, default=1.0))
    first = next(s.shades for s in chart.series if s.shades is not None)
    return {
        "color": finite(tuple(shades)),
        "colorscale": [list(stop) for stop in _SHADES],
        "reversescale": dark > light,
        "cmin": min(dark, light),
        "cmax": max(dark, light),
        "showscale": first is shades and dark != light and len(set(every)) > 1,
        "colorbar": {"title": {"text": chart.shade_label, "side": "right"}, "thickness": 12},
        "line": {"width": 1, "color": "@ink"},
    }


def _lengths(low: Sequence[float], high: Sequence[float]) -> list[float | None]:
    """Of error bars; one without an end is not drawn."""
    found = (above - below for below, above in zip(low, high, strict=True))
    return [length if math.isfinite(length) else None for length in found]


def _x_axis(chart: Chart, values: Sequence[float]) -> dict[str, Any]:
    axis = _log_axis(values) if chart.log_x else {}
    if chart.x_ticks is not None:
        ticks = {"tickvals": list(chart.x_ticks), "ticktext": [f"{t:g}" for t in chart.x_ticks]}
        axis = {"type": "log" if chart.log_x else "linear", "tickmode": "array", **ticks}
    return axis


def _y_axis(chart: Chart) -> dict[str, Any]:
    if chart.y_names is not None:
        places = list(range(len(chart.y_names)))
        ticks = {"tickmode": "array", "tickvals": places, "ticktext": list(chart.y_names)}
        if chart.names_above:  # and room above the first row for its name and the marks' labels
            return {**ticks, "range": [len(places) - 0.5, -1.0], "showticklabels": False}
        return {**ticks, "range": [len(places) - 0.5, -0.5], "ticklabelposition": "outside"}
    values = [value for series in chart.series for value in series.y]
    plain = _from_zero(chart) if chart.from_zero else {}
    axis = _log_axis(values) if chart.log_y else plain
    if chart.y_limits is None:
        return axis
    ends = [math.log10(end) for end in chart.y_limits] if chart.log_y else list(chart.y_limits)
    several = ends[1] - ends[0] > 1
    tick = {"dtick": "D2" if several else None} if chart.log_y else {}
    return {**axis, **tick, "range": ends}


def _from_zero(chart: Chart) -> dict[str, Any]:
    """With room for the labels of marks, which stand below the upper edge."""
    ends = [v for s in chart.series for v in (*s.y, *(s.high or ())) if math.isfinite(v)]
    if not chart.marks or not ends or chart.log_y:
        return {"rangemode": "tozero"}
    return {"range": [0.0, max(ends) * (1.05 + _LABEL_SHARE * len(chart.marks))]}


def _log_axis(values: Iterable[float]) -> dict[str, Any]:
    """Powers of ten, with 2 and 5 where they are few; Plotly's own ticks within one decade."""
    shown = [value for value in values if math.isfinite(value) and value > 0]
    decades = math.log10(max(shown) / min(shown)) if shown else 0.0
    axis: dict[str, Any] = {"type": "log", "exponentformat": "power"}
    if decades > _MOST_DECADES:  # a divergence: half as many on either side of the middle value
        middle = math.log10(sorted(shown)[len(shown) // 2])
        low, high = (math.log10(end(shown)) for end in (min, max))
        half = _MOST_DECADES / 2
        axis["range"] = [max(low, middle - half), min(high, middle + half)]
    if decades > _MANY_DECADES:
        return {**axis, "dtick": 1}
    return {**axis, "dtick": "D2"} if decades > 1 else axis


def _is_at_the_right(chart: Chart, x: float) -> bool:
    """Whether a label to the right of it would leave the picture."""
    scale = math.log if chart.log_x else float
    places = [scale(value) for series in chart.series for value in series.x]
    return bool(places) and scale(x) > (min(places) + max(places)) / 2


def _parallel(picture: ParallelCoordinates) -> JsonObject:
    last = picture.axes[-1]
    shades = [value for value in last.values if math.isfinite(value)]
    ends = picture.shade_ends
    dark, light = ends or (min(shades, default=0.0), max(shades, default=1.0))
    trace = {
        "type": "parcoords",
        "name": picture.title,
        "dimensions": [_dimension(axis) for axis in picture.axes],
        "labelside": "top",
        "line": {
            "color": finite(last.values),
            "colorscale": [list(stop) for stop in _SHADES],
            "reversescale": dark > light,
            "cmin": min(dark, light),
            "cmax": max(dark, light),
            "showscale": True,
            "colorbar": {"title": {"text": last.label, "side": "right"}, "thickness": 12},
        },
        "labelfont": {"color": "@ink"},
        "tickfont": {"color": "@ink"},
        "rangefont": {"color": "@quiet"},
    }
    layout = _frame(_HEIGHT)
    layout["margin"] = {"l": 56, "r": 24, "t": 60, "b": 28}
    return {"data": [trace], "layout": layout, "legend": []}


def _wrapped(label: str) -> str:
    """A long label on two lines: a figure may be as narrow as a phone."""
    words = label.split(" ")
    if len(label) <= _LONGEST_LABEL or len(words) < 2:
        return label
    cut = min(range(1, len(words)), key=lambda n: abs(len(label) - 2 * len(" ".join(words[:n]))))
    return f"{' '.join(words[:cut])}<br>{' '.join(words[cut:])}"


def _dimension(axis: ParallelAxis) -> JsonObject:
    shown: dict[str, Any] = {"label": axis.label, "values": finite(axis.values)}
    if axis.names:
        places = list(range(len(axis.names)))
        return (
            shown
            | {"tickvals": places, "ticktext": list(axis.names)}
            | {"range": [-0.5, len(places) - 0.5]}
        )
    if axis.log:
        logs = [math.log10(v) if v > 0 else math.nan for v in axis.values]
        ticks = _ticks(logs)
        shown["values"] = finite(tuple(logs))
        return shown | {"tickvals": ticks, "ticktext": [_number(10**tick) for tick in ticks]}
    return shown


def _number(value: float) -> str:
    """Such as "0.0123", "1,024"."""
    return f"{value:,.0f}" if 99.5 <= value < 1e7 else f"{value:.3g}"


def _ticks(logs: Sequence[float]) -> list[float]:
    """The values themselves where they are few, else powers of ten and the ends."""
    # Two that differ by rounding alone would be one place with two labels.
    values = sorted({round(value, 4): value for value in logs if math.isfinite(value)}.values())
    if len(values) <= 12:
        return values
    powers = range(math.ceil(values[0]), math.floor(values[-1]) + 1)
    return sorted({values[0], *map(float, powers), values[-1]})
