"""Charts as vector graphics for print: PDF and SVG, by Matplotlib.

The same pictures as on the page, on white paper: colors by role, one legend below.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfbatch.charts import Chart, ParallelCoordinates, Picture, Series, Stack
from tfbatch.charts.colors import PALETTE, color
from tfbatch.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = {
    "circle": ("o", "full"),
    "circle-open": ("o", "none"),
    "diamond": ("D", "full"),
    "diamond-open": ("D", "none"),
    "square": ("s", "full"),
    "x": ("x", "full"),
}
_WIDTH, _HEIGHT = 6.3, 3.4
"""Inches: the text width of a page of A4 or letter paper."""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tfbatch",
    "pdf.fonttype": 42,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_UNDATED = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def write_figure(picture: Picture, path: Path) -> list[Path]:
    """Writes a picture as PATH.pdf and PATH.svg; the same picture gives the same bytes.

    Args:
        picture: A chart or a stack of charts.
        path: Where, without a suffix.

    Returns:
        The files.

    Raises:
        InputError: Matplotlib is not installed, or it is a picture that paper does not take.
    """
    if isinstance(picture, ParallelCoordinates):
        raise InputError(
            "`picture` must be a chart or a stack of charts. Received: lines to brush."
        )
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InputError(
            "The figures of an appendix need Matplotlib. Install it: pip install 'matplotlib>=3.8'"
        ) from error
    charts = picture.charts if isinstance(picture, Stack) else (picture,)
    files = [path.with_name(f"{path.name}.{kind}") for kind in ("pdf", "svg")]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT * (0.4 + 0.6 * len(charts))), layout="constrained")
        axes = figure.subplots(len(charts), 1, sharex=True, squeeze=False)[:, 0]
        for chart, area in zip(charts, axes, strict=True):
            _draw(area, chart, bottom=chart is charts[-1])
        found: dict[str, Any] = {}
        for area in axes:
            handles, names = area.get_legend_handles_labels()
            found |= {name: handle for handle, name in zip(handles, names, strict=True)}
        if found:
            columns = 2 if len(found) > 1 else 1
            figure.legend(
                found.values(), found.keys(), loc="outside lower center", ncols=columns, fontsize=7
            )
        for file in files:
            figure.savefig(file, metadata=_UNDATED[file.suffix[1:]])
    return files


def _draw(area: Axes, chart: Chart, *, bottom: bool) -> None:
    if chart.log_x:
        area.set_xscale("log", base=2 if chart.x_ticks else 10)
    if chart.log_y and chart.y_names is None:
        area.set_yscale("log")
    for band in chart.bands:
        span = area.axhspan if band.across == "y" else area.axvspan
        span(band.low, band.high, color="#dfe7e3", label=band.label, zorder=0)
    for number, series in enumerate(chart.series):
        _plot(area, chart, series, color(PALETTE[number % len(PALETTE)]))
    for mark in chart.marks:
        area.axvline(mark.x, color=color(mark.role or "other"), linewidth=0.8, linestyle=":")
        area.annotate(
            mark.label,
            (mark.x, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, -2),
            textcoords="offset points",
            fontsize=7,
            va="top",
            rotation=90,
        )
    if chart.y_limits:
        area.set_ylim(*chart.y_limits)
    elif chart.from_zero and not chart.log_y and chart.y_names is None:
        area.set_ylim(bottom=min(0.0, area.get_ylim()[0]))
    if chart.y_names is not None:
        names = [re.sub(r"</?\w+>", "", name.replace("<br>", " ")) for name in chart.y_names]
        area.set_yticks(range(len(names)), names)
        area.set_ylim(len(chart.y_names) - 0.5, -0.5)
    if chart.x_ticks:
        area.set_xticks(chart.x_ticks, [f"{tick:g}" for tick in chart.x_ticks])
        area.minorticks_off()
    area.set_ylabel(chart.y_label)
    area.set_title(chart.title, fontsize=9, loc="left")
    area.grid(color=color("grid"), linewidth=0.6)
    area.set_axisbelow(True)
    if bottom:
        area.set_xlabel(chart.x_label)


def _plot(area: Axes, chart: Chart, series: Series, shade: str) -> None:
    shade = color(series.role) if series.role else shade
    marker, filled = _MARKERS[series.symbol]
    style = {
        "points": "none",
        "line": "-",
        "dashed": "--",
        "points and line": "-",
        "bars": "none",
    }[series.kind]
    if series.kind == "bars":
        area.bar(series.x, series.y, color=shade, label=series.name)
        return
    drawn: dict[str, Any] = {"color": shade, "linestyle": style, "linewidth": 1.1}
    if series.kind in ("points", "points and line"):
        drawn |= {"marker": marker, "fillstyle": filled, "markersize": 4}
    if series.low is not None and series.high is not None:
        # The rows of a chart with names for places have their values along the other axis.
        along, across = ("xerr", series.x) if chart.y_names is not None else ("yerr", series.y)
        errors = [_lengths(across, series.low), _lengths(series.high, across)]
        drawn[along] = errors
        area.errorbar(series.x, series.y, capsize=2, label=series.name, **drawn)
    elif series.shades is not None:
        _shaded(area, chart, series, marker)
    else:
        area.plot(series.x, series.y, label=series.name, **drawn)


def _shaded(area: Axes, chart: Chart, series: Series, marker: str) -> None:
    """Points whose color is a number, with its scale; light is what the chart's ends call light."""
    dark, light = chart.shade_ends or (min(series.shades or (0,)), max(series.shades or (0,)))
    points = area.scatter(
        series.x,
        series.y,
        c=series.shades,
        s=16,
        label=series.name,
        marker=marker,
        vmin=min(dark, light),
        vmax=max(dark, light),
        cmap="viridis" if dark <= light else "viridis_r",
    )
    if area.figure.axes[-1].get_label() != "<colorbar>":
        area.figure.colorbar(points, ax=area, label=chart.shade_label)


def _lengths(high: Sequence[float], low: Sequence[float]) -> list[float]:
    """Of error bars; none where an end is not finite."""
    return [
        max(top - end, 0.0) if math.isfinite(top - end) else math.nan
        for top, end in zip(high, low, strict=True)
    ]
