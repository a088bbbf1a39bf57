"""Draws the trials of a run by batch size as an SVG: the picture of README.

usage: python docs/picture.py [RUN] [--output=docs/search.svg]

RUN is a run folder of `tfbatch tune`; by default docs/run, which holds the journal, the answer and
the step times of the search that README shows.

On the left a dot is the score of a trial, by batch size. On the right are the configurations that
were trained on fresh seeds, mean and standard deviation, by the seconds of their training steps.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WIDTH, HEIGHT = 880, 380
LEFT, RIGHT, TOP, BOTTOM, GAP = 52, 20, 44, 84, 72
SEARCHED, TIED, BASELINE, CHOSEN = "#9aa5b1", "#334e68", "#b44d12", "#0b7a4b"
Row = dict[str, Any]


@dataclass(frozen=True)
class Verified:
    """The scores of one configuration on the fresh seeds."""

    batch_size: int
    scores: list[float]
    seconds: float
    is_baseline: bool
    is_recommended: bool

    @property
    def mean(self) -> float:
        """The mean of the scores."""
        return statistics.mean(self.scores)

    @property
    def spread(self) -> float:
        """Their standard deviation; 0 for one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0

    @property
    def color(self) -> str:
        """What it is, at a glance."""
        return CHOSEN if self.is_recommended else BASELINE if self.is_baseline else TIED


@dataclass(frozen=True)
class Axis:
    """Maps a number to a place in the picture."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass
class Picture:
    """The elements of an SVG, in the order in which they are drawn."""

    elements: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, text: str, *, anchor: str = "middle", more: str = ""
    ) -> None:
        """Writes a line of text."""
        self.elements.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{text}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, *, color: str, width: float) -> None:
        """Draws a line."""
        self.elements.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
            f'stroke-width="{width}"/>'
        )

    def dot(self, x: float, y: float, *, color: str, radius: float, about: str) -> None:
        """Draws a dot that shows `about` under the pointer."""
        self.elements.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{color}" stroke="#fff">'
            f"<title>{about}</title></circle>"
        )

    def svg(self) -> str:
        """The whole file."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
                'font-family="sans-serif" font-size="13" fill="#243b53">',
                f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
                *self.elements,
                "</svg>\n",
            ]
        )


def read_rows(run: Path) -> list[Row]:
    """The completed trials of the journal."""
    text = (run / "trials.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if row["status"] == "completed"]


def read_verified(rows: Iterable[Row], run: Path) -> list[Verified]:
    """The configurations that were trained on all fresh seeds.

    A continued search may have dropped one that an earlier session had trained on some of them.
    """
    answer = json.loads((run / "recommendation.json").read_text(encoding="utf-8"))
    (baseline,) = (row for row in rows if row["phase"] == "baseline")
    measured = json.loads((run / "step_times.json").read_text(encoding="utf-8"))["seconds"]
    step_seconds = {int(size): statistics.mean(times) for size, times in measured.items()}
    groups = collections.defaultdict(list)
    for row in rows:
        if row["phase"] == "confirmation":
            groups[row["trial"].rsplit("-", 1)[0]].append(row)
    most = max(len(group) for group in groups.values())
    return [
        Verified(
            batch_size=group[0]["batch_size"],
            scores=[row["score"] for row in group],
            seconds=step_seconds[group[0]["batch_size"]] * group[0]["steps"],
            is_baseline=_same(group[0], baseline, "learning_rate", "schedule"),
            is_recommended=_same(group[0], answer, "learning_rate"),
        )
        for group in groups.values()
        if len(group) == most
    ]


def _same(one: Row, other: Row, *names: str) -> bool:
    return all(one[name] == other[name] for name in ("batch_size", *names))


def draw(run: Path) -> str:
    """The picture of a run as the text of an SVG."""
    rows = read_rows(run)
    verified = read_verified(rows, run)
    metric = json.loads((run / "recommendation.json").read_text(encoding="utf-8"))["objective"]
    middle = LEFT + (WIDTH - LEFT - RIGHT - GAP) * 0.55
    picture = Picture()
    _trials(picture, (LEFT, middle), [r for r in rows if r["phase"] != "confirmation"])
    _fresh_seeds(picture, (middle + GAP, WIDTH - RIGHT), verified)
    seeds = max(len(one.scores) for one in verified)
    legend = (
        (SEARCHED, "trial of the search"),
        (BASELINE, "baseline"),
        (CHOSEN, "recommended"),
        (TIED, "other candidate"),
    )
    place = float(LEFT)
    for color, name in legend:
        picture.dot(place + 5, HEIGHT - 20, color=color, radius=5, about=name)
        picture.text(place + 15, HEIGHT - 16, name, anchor="start")
        place += 40 + 7 * len(name)
    note = f"scores: {metric.split(':')[0]}; bars: standard deviation, n = {seeds}"
    picture.text(WIDTH - RIGHT, HEIGHT - 16, note, anchor="end")
    return picture.svg()


def _trials(picture: Picture, across: tuple[float, float], rows: list[Row]) -> None:
    exponents = [math.log2(row["batch_size"]) for row in rows]
    x = Axis(min(exponents) - 0.4, max(exponents) + 0.4, *across)
    scores = [row["score"] for row in rows]
    y = _upwards(min(scores), max(scores), 0.1)
    ticks = [(float(n), str(2**n)) for n in range(math.ceil(x.low), math.floor(x.high) + 1)]
    _frame(picture, x, y, ticks, title="The search: score by batch size", label="batch size")
    for row in sorted(rows, key=lambda row: row["phase"] == "baseline"):
        about = f"{row['trial']}: {row['score']:.4f}, learning rate {row['learning_rate']:.3g}"
        color = BASELINE if row["phase"] == "baseline" else SEARCHED
        place = x(math.log2(row["batch_size"])), y(row["score"])
        picture.dot(*place, color=color, radius=5, about=about)


def _fresh_seeds(picture: Picture, across: tuple[float, float], verified: list[Verified]) -> None:
    x = Axis(0.0, max(one.seconds for one in verified) * 1.15, *across)
    lows = [one.mean - one.spread for one in verified]
    y = _upwards(min(lows), max(one.mean + one.spread for one in verified), 0.02)
    ticks = [(n * x.high / 4, f"{n * x.high / 4:.0f}") for n in range(5)]
    title = "Fresh seeds: score by training time"
    _frame(
        picture, x, y, ticks, title=title, label="seconds of training steps, alone on the device"
    )
    for one in sorted(verified, key=lambda one: one.is_recommended):
        place = x(one.seconds)
        ends = y(one.mean - one.spread), y(one.mean + one.spread)
        picture.line(place, ends[0], place, ends[1], color=one.color, width=2.5)
        about = f"{one.mean:.4f} ± {one.spread:.4f} (n={len(one.scores)}), {one.seconds:.1f} s"
        picture.dot(place, y(one.mean), color=one.color, radius=6, about=about)
        picture.text(place + 10, y(one.mean) + 4, str(one.batch_size), anchor="start")


def _upwards(low: float, high: float, step: float) -> Axis:
    """An axis from the bottom to the top that begins and ends at multiples of a step."""
    return Axis(math.floor(low / step) * step, math.ceil(high / step) * step, HEIGHT - BOTTOM, TOP)


def _levels(y: Axis) -> list[float]:
    """Five to nine values from the bottom to the top, an equal step apart."""
    tenths = round((y.high - y.low) * 100)
    parts = next((n for n in (5, 6, 7, 8, 9, 4) if tenths % n == 0), 5)
    return [y.low + part * (y.high - y.low) / parts for part in range(parts + 1)]


def _frame(
    picture: Picture, x: Axis, y: Axis, ticks: list[tuple[float, str]], *, title: str, label: str
) -> None:
    for value, name in ticks:
        picture.text(x(value), y.start + 18, name)
    picture.text((x.start + x.end) / 2, y.start + 38, label)
    for value in _levels(y):
        picture.line(x.start, y(value), x.end, y(value), color="#e4e7eb", width=1)
        picture.text(x.start - 8, y(value) + 4, f"{value:.3g}", anchor="end")
    picture.text(x.start, TOP - 16, title, anchor="start", more='font-weight="bold"')


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=HERE / "run")
    parser.add_argument("--output", type=Path, default=HERE / "search.svg")
    arguments = parser.parse_args()
    arguments.output.write_text(draw(arguments.run), encoding="utf-8")


if __name__ == "__main__":
    main()
