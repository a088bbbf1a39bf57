"""Tables and figure of the simulated searches, from what search_replay.py has kept.

usage: python benchmarks/search_replay_page.py [--ours=NAME] [--figure=FILE]

Prints the tables in Markdown and draws the regret against minutes: one panel for each table, solid
lines on the engine of tfbatch, dashed ones on KerasTuner's.

Result: of search_replay.py.
Evidence: benchmarks/results/search_replay.md
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from replay import kept
from replay.kept import BUDGETS, Key, Results
from replay.measures import bootstrap_ratio
from replay.plan import PLANS
from search_replay import KEPT, SHOWN

ROOT = Path(__file__).parents[1]
TARGET_RIVALS = ("1_epoch", "2_epoch", "5_epoch", "optuna_tpe", "optuna_tpe_asha")
"""i-Epoch and Optuna: of them, the best one is the measure."""
OWN_ENGINE = ("keras_tuner_hyperband", "optuna_tpe_asha")
"""Drawn on KerasTuner's engine too."""
COLORS = {
    "trunks": "#0b7a4b",
    "trunks_first_always": "#18b5a3",
    "trunks_first_always_tpe": "#7ccf9b",
    "random": "#9aa5b1",
    "1_epoch": "#d9822b",
    "2_epoch": "#b44d12",
    "5_epoch": "#7a2e0e",
    "optuna_tpe": "#5c6bc0",
    "optuna_tpe_asha": "#1f3a93",
    "keras_tuner_random": "#c5b0d5",
    "keras_tuner_bayesian": "#8e44ad",
    "keras_tuner_hyperband": "#c2185b",
}
WIDTH, PANEL, LEFT, RIGHT, TOP, BOTTOM, GAP = 980, 300, 56, 16, 40, 150, 46
WORST = 4.0
"""Tolerances at the top of the figure."""


def everything_kept() -> dict[str, dict[Key, Results]]:
    """The results by table."""
    paths = [KEPT / f"{plan.name}.npz" for plan in PLANS]
    return {path.stem: kept.read(path) for path in paths if path.exists()}


def rows(of_table: Mapping[Key, Results], metric: str, engine: str) -> dict[str, Results]:
    """The searches of a table by name."""
    return {s: r for (m, e, s), r in of_table.items() if (m, e) == (metric, engine)}


def table_lines(found: Mapping[str, Results], *, ours: str) -> Iterator[str]:
    """A table in Markdown, the best first; the ratio is paired by repetition."""
    shown = " | ".join(f"regret at {budget:g}" for budget in SHOWN)
    yield (
        f"| search | n | until, mean | median | found | stays | end | {shown} | against ours | to "
        "match ours |"
    )
    yield "| --- " * (9 + len(SHOWN)) + "|"
    for name in sorted(found, key=lambda name: float(found[name].until.mean())):
        one = found[name]
        regrets = " | ".join(
            f"{np.mean(one.regret_at(b)):.2f} ({np.median(one.regret_at(b)):.2f})" for b in SHOWN
        )
        yield (
            f"| {name} | {len(one.until)} | {one.until.mean():.2f} | {np.median(one.until):.2f} | "
            f"{one.found.mean():.0%} | {one.stays.mean():.2f} | {one.end.mean():.2f} | "
            f"{regrets} | {_ratio(found.get(ours), one)} | {_match(found.get(ours), one)} |"
        )


def _ratio(ours: Results | None, theirs: Results) -> str:
    if ours is None or ours is theirs:
        return ""
    n = min(len(ours.until), len(theirs.until))
    rng = np.random.default_rng(1)
    ratio, low, high = bootstrap_ratio(ours.until[:n], theirs.until[:n], rng=rng)
    return f"{ratio:.2f} x [{low:.2f}, {high:.2f}]"


def _match(ours: Results | None, theirs: Results) -> str:
    if ours is None or ours is theirs:
        return ""
    ratio, low, high = to_match(ours, theirs, rng=np.random.default_rng(1))
    return f"{ratio:.1f} x [{low:.1f}, {high:.1f}]"


def to_match(
    ours: Results, theirs: Results, *, rng: np.random.Generator, resamples: int = 500
) -> tuple[float, float, float]:
    """What another search spends until its mean regret is that of ours at its end, over its price.

    Args:
        ours: Our search.
        theirs: The other one; infinite where its regret never is as small.
        rng: Draws the repetitions.
        resamples: Bootstrap samples (percentile interval).
    """
    n = min(len(ours.end), len(theirs.end))

    def ratio(drawn: npt.NDArray[np.intp]) -> float:
        target = ours.regret[drawn, -1].mean()
        beyond = np.flatnonzero(theirs.regret[drawn].mean(axis=0) > target)
        first = beyond[-1] + 1 if len(beyond) else 0  # from there on it stays
        spent = float(BUDGETS[first]) if first < len(BUDGETS) else math.inf
        return spent / float(ours.end[drawn].mean())

    ratios = [ratio(rng.integers(n, size=n)) for _ in range(resamples)]
    low, high = np.quantile(ratios, [0.025, 0.975], method="nearest")
    return ratio(np.arange(n)), float(low), float(high)


def engine_lines(of_table: Mapping[Key, Results], metric: str) -> Iterator[str]:
    """Seconds until within the tolerance, on both engines."""
    both = [rows(of_table, metric, engine) for engine in ("tfbatch", "keras_tuner")]
    yield "| search | on tfbatch's engine, s | on KerasTuner's, s | engine's factor |"
    yield "| --- | --- | --- | --- |"
    names = [name for name in both[0] if name in both[1]]
    for name in sorted(names, key=lambda name: both[0][name].until.mean() * both[0][name].unit):
        ours, theirs = (found[name].until.mean() * found[name].unit for found in both)
        yield f"| {name} | {ours:.0f} | {theirs:.0f} | {theirs / ours:.1f} x |"


def page(everything: Mapping[str, Mapping[Key, Results]], *, ours: str) -> Iterator[str]:
    """All tables."""
    for table, of_table in everything.items():
        for metric in sorted({key[0] for key in of_table}):
            for engine in ("examples", "tfbatch"):
                if found := rows(of_table, metric, engine):
                    priced = "examples, one worker" if engine == "examples" else "seconds"
                    yield f"**{table}, {metric}, by {priced}**"
                    yield ""
                    yield from table_lines(found, ours=ours)
                    yield ""
            if rows(of_table, metric, "keras_tuner"):
                yield f"**{table}, {metric}, seconds on both engines**"
                yield ""
                yield from engine_lines(of_table, metric)
                yield ""


def figure(everything: Mapping[str, Mapping[Key, Results]], *, metric: str, ours: str) -> str:
    """The regret against minutes, as the text of an SVG."""
    drawn: list[str] = []
    wide = (WIDTH - LEFT - RIGHT - GAP * (len(everything) - 1)) / len(everything)
    for place, (name, of_table) in enumerate(everything.items()):
        left = LEFT + place * (wide + GAP)
        drawn += _panel(name, of_table, metric=metric, ours=ours, left=left, wide=wide)
    names = [name for name in COLORS if any(_lines(t, metric, name) for t in everything.values())]
    drawn += _legend(names, ours)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + PANEL + BOTTOM}" '
        'font-family="sans-serif" font-size="13" fill="#243b53">'
    )
    back = f'<rect width="{WIDTH}" height="{TOP + PANEL + BOTTOM}" fill="#ffffff"/>'
    return "\n".join([head, back, *drawn, "</svg>\n"])


def _lines(of_table: Mapping[Key, Results], metric: str, name: str) -> list[tuple[Results, bool]]:
    """The results that are drawn of a search, with whether the line is dashed."""
    engines = ("tfbatch", "keras_tuner") if name in OWN_ENGINE else ("tfbatch",)
    keys = [((metric, engine, name), engine != "tfbatch") for engine in engines]
    return [(of_table[key], dashed) for key, dashed in keys if key in of_table]


def _panel(
    name: str,
    of_table: Mapping[Key, Results],
    *,
    metric: str,
    ours: str,
    left: float,
    wide: float,
) -> Iterator[str]:
    lines = [(s, r, dashed) for s in COLORS for r, dashed in _lines(of_table, metric, s)]
    minutes = [BUDGETS * r.unit / 60 for _, r, _ in lines]
    if not minutes:
        return
    low, high = min(m[0] for m in minutes), max(m[-1] for m in minutes)

    def x(value: float) -> float:
        return left + wide * math.log(value / low) / math.log(high / low)

    def y(value: float) -> float:
        return TOP + PANEL * (1 - min(max(value, -0.5), WORST) / WORST * 0.92 - 0.04)

    held_out = {plan.name for plan in PLANS if plan.role == "held_out"}
    title = f"{name}, once held out" if name in held_out else name
    yield _text(left, TOP - 16, title, anchor="start", more='font-weight="bold"')
    for level in range(int(WORST) + 1):
        yield _line([(left, y(level)), (left + wide, y(level))], color="#e4e7eb", width=1)
        yield _text(left - 6, y(level) + 4, str(level), anchor="end")
    yield _line([(left, y(1)), (left + wide, y(1))], color="#627d98", width=1.2)
    for tick in _ticks(low, high):
        yield _text(x(tick), TOP + PANEL + 18, f"{tick:g}")
        yield _line([(x(tick), TOP), (x(tick), TOP + PANEL)], color="#f0f4f8", width=1)
    yield _text(left + wide / 2, TOP + PANEL + 38, "minutes of search")
    for search, results, dashed in sorted(lines, key=lambda line: line[0] == ours):
        points = [
            (x(minute), y(regret))
            for minute, regret in zip(
                BUDGETS * results.unit / 60, np.median(results.regret, axis=0), strict=True
            )
        ]
        width = 3.5 if search == ours else 1.6
        yield _line(points, color=COLORS[search], width=width, dashed=dashed, about=search)


def _ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [m * 10.0**p for p in powers for m in (1, 3)]
    return [tick for tick in every if low <= tick <= high]


def _legend(names: Sequence[str], ours: str) -> Iterator[str]:
    across = 5
    for place, name in enumerate(names):
        x = LEFT + (place % across) * (WIDTH - LEFT - RIGHT) / across
        y = TOP + PANEL + 62 + 20 * (place // across)
        width = 3.5 if name == ours else 1.6
        yield _line([(x, y), (x + 22, y)], color=COLORS[name], width=width)
        yield _text(x + 28, y + 4, name, anchor="start")
    note = "median regret in units of the tolerance (the line at 1); dashed: on KerasTuner's engine"
    yield _text(LEFT, TOP + PANEL + BOTTOM - 12, note, anchor="start")


def _text(x: float, y: float, text: str, *, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{text}</text>'


def _line(
    points: Sequence[tuple[float, float]] | npt.NDArray[np.float64],
    *,
    color: str,
    width: float,
    dashed: bool = False,
    about: str = "",
) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    title = f"<title>{about}</title>" if about else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"{dash}>'
        f"{title}</polyline>"
    )


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", default="trunks")
    parser.add_argument("--metric", default="loss")
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    everything = everything_kept()
    print("\n".join(page(everything, ours=arguments.ours)))
    if arguments.figure:
        svg = figure(everything, metric=arguments.metric, ours=arguments.ours)
        arguments.figure.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
