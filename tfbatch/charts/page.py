"""Charts as one HTML page with interactive plots, which opens without a network."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfbatch.charts import Chart, Series

if TYPE_CHECKING:
    from plotly import graph_objects

_COLOURS = ("#1f5fa8", "#c4561c", "#2b8a57", "#8455a6", "#7a6a1a", "#b03060")
_MANY_DECADES = 3.0
_MOST_DECADES = 12.0
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 24px;
       color: #1c2733; background: #fff; }}
h1 {{ font-size: 26px; margin: 0 0 8px; }}
h2 {{ font-size: 20px; margin: 40px 0 8px; border-top: 1px solid #d8dee6; padding-top: 24px; }}
table {{ border-collapse: collapse; font-size: 14px; margin: 12px 0; }}
th, td {{ padding: 4px 14px 4px 0; text-align: left; border-bottom: 1px solid #e8ecf1; }}
th {{ font-weight: 600; }}
td {{ font-variant-numeric: tabular-nums; }}
.plots {{ display: grid; gap: 16px; grid-template-columns: minmax(0, 1fr); }}
@media (min-width: 900px) {{
  .plots.several {{ grid-template-columns: repeat(2, minmax(0, 1fr)); }}
}}
.scroll {{ overflow-x: auto; }}
</style>
<script>{script}</script>
</head>
<body>
<h1>{title}</h1>
{introduction}
{sections}
</body>
</html>
"""


class PageSection:
    """A part of the page: a sentence, a table, plots.

    Args:
        heading: Its heading.
        text: What it says.
        columns: Headings of its table.
        rows: Cells of its table.
        charts: Its plots.
    """

    def __init__(
        self,
        heading: str,
        text: str,
        columns: Sequence[str] = (),
        rows: Sequence[Sequence[str]] = (),
        charts: Sequence[Chart] = (),
    ):
        self.heading, self.text = heading, text
        self.columns, self.rows, self.charts = columns, rows, charts

    def html(self) -> str:
        """The part as HTML."""
        plots = "".join(f'<div class="plot">{_plot(chart)}</div>' for chart in self.charts)
        # Columns are fixed before the first plot is drawn: it takes the width that it finds.
        kind = "plots several" if len(self.charts) > 1 else "plots"
        return (
            f"<h2>{html.escape(self.heading)}</h2>\n<p>{html.escape(self.text)}</p>\n"
            f"{self._table()}\n" + (f'<div class="{kind}">{plots}</div>' if plots else "")
        )

    def _table(self) -> str:
        if not self.rows:
            return ""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'<div class="scroll">{table}</div>'


def page(title: str, introduction: Sequence[str], sections: Sequence[PageSection]) -> str:
    """The whole page.

    Args:
        title: Title and heading.
        introduction: Paragraphs before the sections.
        sections: The parts.
    """
    from plotly.offline import get_plotlyjs

    return _PAGE.format(
        title=html.escape(title),
        script=get_plotlyjs(),
        introduction="\n".join(f"<p>{html.escape(text)}</p>" for text in introduction),
        sections="\n".join(section.html() for section in sections),
    )


def figure(chart: Chart) -> graph_objects.Figure:
    """A chart as a `plotly.graph_objects.Figure`."""
    from plotly import graph_objects

    drawn = graph_objects.Figure()
    for number, series in enumerate(chart.series):
        drawn.add_trace(_trace(graph_objects, series, _COLOURS[number % len(_COLOURS)]))
    for mark in chart.marks:
        drawn.add_vline(x=mark.x, line={"color": "#5b6673", "width": 1.5, "dash": "dot"})
        drawn.add_annotation(
            x=math.log10(mark.x) if chart.log_x else mark.x,
            y=1,
            yref="paper",
            text=mark.label,
            showarrow=False,
            xanchor="right" if _is_at_the_right(chart, mark.x) else "left",
            yanchor="top",
            xshift=-4 if _is_at_the_right(chart, mark.x) else 4,
        )
    drawn.update_layout(
        title={"text": chart.title, "font": {"size": 16}},
        template="plotly_white",
        legend={"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0},
        margin={"l": 70, "r": 20, "t": 50, "b": 60},
        height=420,
        hovermode="closest",
    )
    drawn.update_xaxes(title=chart.x_label, **_x_axis(chart))
    drawn.update_yaxes(title=chart.y_label, **_y_axis(chart))
    return drawn


def _plot(chart: Chart) -> str:
    text: str = figure(chart).to_html(
        full_html=False,
        include_plotlyjs=False,
        config={"displaylogo": False, "responsive": True},
    )
    return text


def _trace(graph_objects: Any, series: Series, colour: str) -> Any:
    y = [value if math.isfinite(value) else None for value in series.y]
    errors = None
    if series.low is not None and series.high is not None:
        errors = {
            "type": "data",
            "symmetric": False,
            "array": _lengths(series.y, series.high),
            "arrayminus": _lengths(series.low, series.y),
            "thickness": 1.2,
            "width": 3,
        }
    if series.kind == "bars":
        return graph_objects.Bar(
            x=series.x, y=y, name=series.name, error_y=errors, marker={"color": colour}
        )
    mode = {"points": "markers", "points and line": "lines+markers"}.get(series.kind, "lines")
    return graph_objects.Scatter(
        x=series.x,
        y=y,
        name=series.name,
        mode=mode,
        error_y=errors,
        marker={"color": colour, "size": 7},
        line={"color": colour, "width": 2, "dash": "dash" if series.kind == "dashed" else "solid"},
        showlegend=True,
    )


def _lengths(low: Sequence[float], high: Sequence[float]) -> list[float | None]:
    """Of error bars; one without an end is not drawn."""
    found = (above - below for below, above in zip(low, high, strict=True))
    return [length if math.isfinite(length) else None for length in found]


def _x_axis(chart: Chart) -> dict[str, Any]:
    values = [value for series in chart.series for value in series.x]
    axis = _log_axis(values) if chart.log_x else {}
    if chart.x_ticks is not None:
        ticks = {"tickvals": list(chart.x_ticks), "ticktext": [f"{t:g}" for t in chart.x_ticks]}
        axis = {"type": "log" if chart.log_x else "linear", "tickmode": "array", **ticks}
    return axis


def _y_axis(chart: Chart) -> dict[str, Any]:
    values = [value for series in chart.series for value in series.y]
    axis = _log_axis(values) if chart.log_y else {"rangemode": "tozero"}
    if chart.y_limits is None:
        return axis
    ends = [math.log10(end) for end in chart.y_limits] if chart.log_y else list(chart.y_limits)
    several = ends[1] - ends[0] > 1
    tick = {"dtick": "D2" if several else None} if chart.log_y else {}
    return {**axis, **tick, "range": ends}


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
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
