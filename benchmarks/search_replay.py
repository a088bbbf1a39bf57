"""Searches simulated on the replay tables: what each costs until its answer is as good as the best.

usage: python benchmarks/search_replay.py [--table=TABLE ...] [--search=NAME ...]
           [--metric=loss|accuracy] [--engine=examples|tfbatch|keras_tuner] [--repetitions=N]
           [--set=KEY=VALUE ...] [--name=NAME] [--keep]

A repetition parts the table's seeds into those that the search sees and those that judge it (all
splits in turn), and has a seed of its own for the search. `--set` gives a search's settings, and
`--name` then the name of the row. `--keep` keeps the result in benchmarks/results/search_replay,
from which search_replay_page.py makes tables and figure.

Columns: full trainings of the baseline until the answer was first within the tolerance of the best
known (mean, median, share of repetitions; the cap of 25 where never), until it stayed there, at the
search's end; then the regret, in tolerances, at some budgets (mean, and median in brackets).

Not counted: the baseline itself and verification, which cost all searches the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from replay import kept
from replay.kept import CAP, Results
from replay.measures import Course, Judge, splits
from replay.plan import PLANS
from replay.searches import ENGINES, SEARCHES, Make, Task, baseline_of, make_search
from replay.simulate import Engine, Replay, simulate
from replay.table import Metric, Table

TABLES = Path(__file__).parent / "replay" / "tables"
KEPT = Path(__file__).parent / "results" / "search_replay"
SHOWN = (1.0, 2.0, 3.5, 9.0, 25.0)
"""Full trainings at which the regret is printed."""


def full_training(table: Table, engine: Engine, metric: Metric) -> float:
    """What the baseline costs, alone on the machine: examples, or seconds of the engine."""
    if engine.name == "examples":
        return float(table.plan.total_examples)
    alone = dataclasses.replace(engine, workers=1, slower=1.0)
    rng = np.random.default_rng(0)
    replay = Replay(table, engine=alone, metric=metric, seeds=(1,), rng=rng)
    return replay.whole(baseline_of(table.plan)).seconds


def run(make: Make, table: Table, *, metric: Metric, engine: Engine, repetitions: int) -> Results:
    """Simulates one search, repetition by repetition."""
    courses, tolerances, before = [], [], []
    unit = full_training(table, engine, metric)
    began = time.process_time()
    judges = itertools.islice(_judges(table, metric), repetitions)
    for seed, (seen, judge) in enumerate(judges, start=1):
        task = Task(table, metric, engine, seed)
        rng = np.random.default_rng(seed)
        replay = Replay(table, engine=engine, metric=metric, seeds=seen, rng=rng)
        most = round(CAP * table.plan.total_examples)
        moments = simulate(make(task), replay, most_examples=most)
        course = Course.of(moments, judge, seconds=engine.name != "examples")
        courses.append(Course(course.spent / unit, course.regret, course.end / unit))
        tolerances.append(judge.tolerance)
        before.append(judge.regret(baseline_of(table.plan)))
    return Results.of(
        courses,
        tolerances=tolerances,
        before=before,
        unit=unit,
        process_seconds=(time.process_time() - began) / repetitions,
    )


def _judges(table: Table, metric: Metric) -> Iterator[tuple[tuple[int, ...], Judge]]:
    """Endlessly."""
    judges = [(seen, Judge(table, judging, metric)) for seen, judging in splits(table)]
    while True:
        yield from judges


def header() -> str:
    """Above the rows."""
    budgets = " ".join(f"{budget:>14g}" for budget in SHOWN)
    spent = f"{'until':>6} {'median':>6} {'found':>5} {'stays':>6} {'end':>6}"
    return f"{'search':24} {spent} | {budgets} | s"


def line(name: str, results: Results) -> str:
    """A row of the printed table."""
    until, stays = results.until, results.stays
    spent = (
        f"{until.mean():6.2f} {np.median(until):6.2f} {np.mean(until < CAP):5.0%} "
        f"{stays.mean():6.2f} {results.end.mean():6.2f}"
    )
    at = [results.regret_at(budget) for budget in SHOWN]
    regrets = " ".join(f"{found.mean():6.2f} ({np.median(found):5.2f})" for found in at)
    return f"{name:24} {spent} | {regrets} | {results.process_seconds:.3f}"


def _given(texts: Sequence[str]) -> dict[str, Any]:
    given = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            given[key] = json.loads(value)
        except json.JSONDecodeError:
            given[key] = value
    return given


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    development = [plan.name for plan in PLANS if plan.role == "development"]
    parser.add_argument("--table", action="append", choices=[plan.name for plan in PLANS])
    parser.add_argument("--search", action="append", choices=list(SEARCHES))
    parser.add_argument("--metric", choices=get_args(Metric), default="loss")
    parser.add_argument("--engine", choices=list(ENGINES), default="examples")
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    engine, metric = ENGINES[arguments.engine], arguments.metric
    for name in arguments.table or development[:1]:
        table = Table.read(TABLES / f"{name}.npz")
        print(f"{name}, {metric}, {engine.name}; n = {arguments.repetitions}")
        print(header())
        for search in arguments.search or SEARCHES:
            make = make_search(search, **_given(arguments.set))
            results = run(
                make, table, metric=metric, engine=engine, repetitions=arguments.repetitions
            )
            row = arguments.name or search
            print(line(row, results), flush=True)
            if arguments.keep:
                path = KEPT / f"{name}.npz"
                kept.write(path, {**kept.read(path), (metric, engine.name, row): results})


if __name__ == "__main__":
    main()
