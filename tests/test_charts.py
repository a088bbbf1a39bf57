"""Charts become figures that Plotly accepts, and a page that fetches nothing."""

from __future__ import annotations

import base64
import colorsys
import dataclasses
import gzip
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import tfbatch.charts
from tfbatch.charts import Band, Chart, Mark, ParallelAxis, ParallelCoordinates, Series, Stack
from tfbatch.charts.colors import PALETTE
from tfbatch.charts.page import Column, Page, PageSection, SortableTable
from tfbatch.charts.plotly_figure import figure
from tfbatch.charts.svg import svg
from tfbatch.errors import InputError

SIZES = (16.0, 32.0, 64.0)
UPPER = Chart(
    "Throughput",
    "batch size",
    "examples/s",
    (Series("measured", SIZES, (1.0, 2.0, math.nan), role="best"),),
    marks=(Mark(32.0, "knee 32"), Mark(64.0, "memory ends", "failed")),
    log_y=False,
)
LOWER = Chart(
    "Metric",
    "batch size",
    "val_accuracy",
    (
        Series("tuned", SIZES, (0.5, 0.6, 0.55), (0.4, 0.5, 0.5), (0.6, 0.7, 0.6)),
        Series("trials", SIZES, (0.1, 0.2, 0.3), kind="points", shades=(1.0, 2.0, 3.0)),
    ),
    bands=(Band(0.55, 0.6, "as good"),),
    log_y=False,
    from_zero=False,
    x_ticks=SIZES,
)
ROWS = Chart(
    "Differences",
    "difference",
    "",
    (Series("mean", (0.1, 0.2), (0.0, 1.0), (0.0, 0.1), (0.2, 0.3), about=("a", "b")),),
    log_x=False,
    log_y=False,
    y_names=("first", "second"),
    bands=(Band(-0.1, 0.0, "band", across="x"),),
)
SWITCHED = Chart(
    "Curves",
    "examples",
    "val_loss",
    (Series("one", (1.0, 2.0), (3.0, 2.0), in_other_units=((10.0, 20.0), (0.1, 0.2))),),
    other_x_labels=("updates", "seconds"),
)
PARALLEL = ParallelCoordinates(
    "All trials",
    (
        ParallelAxis("batch size", SIZES, log=True),
        ParallelAxis("schedule", (0.0, 1.0, 0.0), ("cosine", "wsd")),
        ParallelAxis("val_loss", (0.1, 0.2, 0.3)),
    ),
)
PICTURES = (UPPER, LOWER, ROWS, SWITCHED, PARALLEL, Stack("Both", (UPPER, LOWER)))


def in_black(value):
    """A figure as Plotly's own checks take it: with real colors."""
    return json.loads(re.sub(r'"@[a-z0-9-]+"', '"#000000"', json.dumps(value)))


def test_plotly_accepts_every_kind_of_picture():
    graph_objects = pytest.importorskip("plotly.graph_objects")

    for picture in PICTURES:
        drawn = in_black(figure(picture))
        made = graph_objects.Figure(data=drawn["data"], layout=drawn["layout"])
        assert len(made.data) == len(drawn["data"]) > 0


def test_a_figure_has_the_numbers_of_its_chart():
    drawn = figure(Stack("Both", (UPPER, LOWER)))
    first, tuned, _ = drawn["data"]

    assert first["y"] == [1.0, 2.0, None]
    assert tuned["error_y"]["array"] == pytest.approx([0.1, 0.1, 0.05])
    assert (first["yaxis"], tuned["yaxis"]) == ("y", "y2")
    lower, upper = drawn["layout"]["yaxis2"]["domain"], drawn["layout"]["yaxis"]["domain"]
    assert lower[1] < upper[0]
    assert [note["text"] for note in drawn["layout"]["annotations"]] == ["knee 32", "memory ends"]
    assert [entry["name"] for entry in drawn["legend"]] == [
        "measured",
        "tuned",
        "trials",
        "as good",
    ]


def test_a_prediction_has_a_ribbon_and_no_bars():
    predicted = Series(
        "predicted", SIZES, (2.0, 3.0, 4.0), (1.0, 2.0, 3.0), (3.0, 4.0, 5.0), "dashed"
    )
    ribbon, line = figure(Chart("T", "x", "y", (predicted,)))["data"]

    assert ribbon["x"] == [16.0, 32.0, 64.0, 64.0, 32.0, 16.0]
    assert ribbon["y"] == [3.0, 4.0, 5.0, 3.0, 2.0, 1.0]
    assert "error_y" not in line
    assert line["y"] == [2.0, 3.0, 4.0]


def test_rows_run_from_the_top_and_their_bars_lie_along_the_other_axis():
    drawn = figure(ROWS)

    assert drawn["layout"]["yaxis"]["range"] == [1.5, -0.5]
    assert drawn["layout"]["yaxis"]["ticktext"] == ["first", "second"]
    assert drawn["data"][0]["error_x"]["array"] == pytest.approx([0.1, 0.1])


def test_a_switch_has_the_places_in_every_unit():
    drawn = figure(SWITCHED)

    assert drawn["units"] == ["examples", "updates", "seconds"]
    assert drawn["data"][0]["meta"]["in_other_units"] == [[10.0, 20.0], [0.1, 0.2]]


def test_a_chart_that_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match="same length"):
        Series("s", (1.0,), (1.0,), shades=(1.0, 2.0))
    with pytest.raises(InputError, match="further units"):
        Chart("T", "x", "y", SWITCHED.series)
    with pytest.raises(InputError, match="at least one chart"):
        Stack("T", ())
    with pytest.raises(InputError, match="as many values"):
        ParallelCoordinates("T", (ParallelAxis("a", (1.0,)), ParallelAxis("b", ())))


def test_the_page_holds_its_data_once_and_plotly_and_asks_for_nothing_else():
    table = SortableTable(
        "Trials", (Column("a"), Column("b", 3)), (("x", 1.5), ("</script>", None))
    )
    made = Page("T", (), (PageSection("H", "text", charts=PICTURES, table=table),))
    text = made.html()
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    plotly = re.search(r'<script type="text/plain" id="plotly">(.*?)</script>', text, re.DOTALL)

    assert json.loads(block[1]) == json.loads(json.dumps(made.data()))
    assert json.loads(block[1])["tables"]["table-0"]["rows"][1] == ["</script>", None]
    assert b"plotly.js" in gzip.decompress(base64.b64decode(plotly[1]))[:200]
    outside = text.replace(plotly[0], "")
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"|https?://(?!www.w3.org)', outside) == []
    assert len(text) < 2_100_000


def test_a_still_picture_has_every_point_in_its_place():
    text = svg(Stack("Both", (UPPER, LOWER)))
    titles = re.findall(r"<title>([^<]*)</title>", text)

    assert titles == [
        *("measured: 1 at 16", "measured: 2 at 32"),
        *("tuned: 0.5 at 16", "tuned: 0.6 at 32", "tuned: 0.55 at 64"),
        *("trials: 0.1 at 16", "trials: 0.2 at 32", "trials: 0.3 at 64"),
    ]
    first, second = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', text)[:2]
    assert float(first[0]) < float(second[0])
    assert float(first[1]) > float(second[1])  # SVG counts from the top
    for words in ("knee 32", "memory ends", "as good", "batch size", "val_accuracy"):
        assert f">{words}<" in text
    ElementTree.fromstring(text)


def test_a_still_picture_maps_logarithms_and_ends_at_its_limits():
    chart = Chart("T", "x", "y", (Series("s", (1.0, 10.0, 100.0), (1.0, 10.0, 100.0)),))
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg(chart))[:3]
    (x0, y0), (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in circles]

    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    limited = dataclasses.replace(chart, log_y=False, y_limits=(0.0, 50.0))
    assert float(re.findall(r'<circle cx="[\d.]+" cy="([\d.-]+)"', svg(limited))[2]) < 0
    assert "clip-path" in svg(limited)


def scheme_colors():
    """The page's colors, of the light scheme and of the dark one."""
    style = (Path(tfbatch.charts.__file__).parent / "page.css").read_text(encoding="utf-8")
    light, dark = (
        re.findall(r"--([a-z0-9-]+): #(\w{6})", part) for part in style.split("@media")[:2]
    )
    return {"light": dict(light), "dark": dict(dark)}


def red_green_blue(color):
    return [int(color[place : place + 2], 16) / 255 for place in (0, 2, 4)]


def luminance(color):
    """https://www.w3.org/TR/WCAG21/#dfn-relative-luminance"""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in red_green_blue(color)
    ]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_series_without_a_role_has_the_color_of_no_role(scheme):
    """The recommended one is green and the baseline orange: no other line may be."""
    colors = scheme_colors()[scheme]
    for role in ("recommended", "baseline"):
        hue, _, _ = colorsys.rgb_to_hsv(*red_green_blue(colors[role]))
        for name in PALETTE:
            other, saturation, _ = colorsys.rgb_to_hsv(*red_green_blue(colors[name]))
            apart = abs((other - hue + 0.5) % 1 - 0.5) * 360
            assert apart > 20 or saturation < 0.25, (role, name)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shades_grow_lighter_and_are_seen_on_the_page(scheme):
    colors = scheme_colors()[scheme]
    shades = [luminance(colors[f"shade-{number}"]) for number in range(1, 6)]
    paper = luminance(colors["paper"])

    assert shades == sorted(shades)
    for shade in shades:
        assert (max(shade, paper) + 0.05) / (min(shade, paper) + 0.05) > 1.6


def test_the_places_of_a_logarithmic_axis_have_their_own_labels():
    """Two that differ by rounding were one place with two labels, and all others moved by one."""
    rates = (0.01, 0.010000001315, 0.02, 0.04)
    sizes = (8.0, 1024.0, 10_850.0, 10_850.0)
    axes = (ParallelAxis("rate", rates, log=True), ParallelAxis("size", sizes, log=True))
    drawn = figure(ParallelCoordinates("Trials", axes))["data"][0]["dimensions"]

    assert drawn[0]["ticktext"] == ["0.01", "0.02", "0.04"]
    assert 10 ** drawn[0]["tickvals"][1] == pytest.approx(0.02)
    assert drawn[1]["ticktext"] == ["8", "1,024", "10,850"]


def test_marks_have_room_above_what_is_measured():
    axis = figure(UPPER)["layout"]["yaxis"]

    assert axis["range"] == [0.0, pytest.approx(2.0 * (1.05 + 2 * 0.15))]
    assert figure(dataclasses.replace(UPPER, marks=()))["layout"]["yaxis"]["rangemode"] == "tozero"
