"""Searches simulated on the replay tables: what each costs until its answer is as good as the best.

usage: python benchmarks/search_replay.py [--table=TABLE ...] [--search=NAME ...]
           [--metric=loss|accuracy] [--engine=examples|tfbatch|keras_tuner] [--repetitions=N]
           [--set=KEY=VALUE ...]

A repetition parts the table's seeds into those that the search sees and those that judge it (all
splits in turn), and has a seed of its own for the search. `--set` gives a search's settings.

Prices are in full trainings of the baseline: a cosine at the reference batch size and the rate of
the rule. Not counted: the baseline itself and verification, which cost all searches the same.
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
import numpy.typing as npt
from replay.measures import Course, Judge, splits
from replay.plan import PLANS
from replay.searches import ENGINES, SEARCHES, Make, Task, baseline_of, make_search
from replay.simulate import Engine, Replay, simulate
from replay.table import Metric, Table

TABLES = Path(__file__).parent / "replay" / "tables"
CAP = 25
"""Full trainings, at which a search is ended."""
BUDGETS = (1.0, 2.0, 3.5, 9.0, 25.0)
"""Full trainings at which the regret is reported."""


@dataclasses.dataclass(frozen=True)
class Results:
    """One search on one table, repetition by repetition.

    Attributes:
        courses: Its regret, in full trainings of the baseline.
        tolerances: What is as good as the best.
        before: The regret of the baseline.
        end: The regret of the last answer.
    """

    courses: list[Course]
    tolerances: npt.NDArray[np.float64]
    before: npt.NDArray[np.float64]

    def until(self) -> npt.NDArray[np.float64]:
        """Full trainings until within the tolerance; the cap where that never was."""
        pairs = zip(self.courses, self.tolerances, strict=True)
        return np.minimum([course.until(tolerance) for course, tolerance in pairs], CAP)

    def for_good(self) -> npt.NDArray[np.float64]:
        """The same, to stay there."""
        pairs = zip(self.courses, self.tolerances, strict=True)
        return np.minimum([course.for_good(tolerance) for course, tolerance in pairs], CAP)

    def regret(self, budgets: Sequence[float]) -> npt.NDArray[np.float64]:
        """In units of the tolerance, [repetitions, budgets]."""
        triples = zip(self.courses, self.before, self.tolerances, strict=True)
        return np.stack([c.at(np.array(budgets), before=b) / t for c, b, t in triples])


def full_training(table: Table, engine: Engine, metric: Metric, seeds: Sequence[int]) -> float:
    """What the baseline costs, alone on the machine: examples, or seconds of the engine."""
    if engine.name == "examples":
        return float(table.plan.total_examples)
    alone = dataclasses.replace(engine, workers=1, slower=1.0)
    rng = np.random.default_rng(0)
    replay = Replay(table, engine=alone, metric=metric, seeds=seeds, rng=rng)
    return replay.whole(baseline_of(table.plan)).seconds


def run(make: Make, table: Table, *, metric: Metric, engine: Engine, repetitions: int) -> Results:
    """Simulates one search, repetition by repetition."""
    courses, tolerances, before = [], [], []
    for seed, (seen, judge) in enumerate(
        itertools.islice(_judges(table, metric), repetitions), start=1
    ):
        task = Task(table, metric, engine, seed)
        rng = np.random.default_rng(seed)
        replay = Replay(table, engine=engine, metric=metric, seeds=seen, rng=rng)
        most = CAP * table.plan.total_examples
        moments = simulate(make(task), replay, most_examples=most)
        course = Course.of(moments, judge, seconds=engine.name != "examples")
        price = full_training(table, engine, metric, seen)
        courses.append(Course(course.spent / price, course.regret, course.end / price))
        tolerances.append(judge.tolerance)
        before.append(judge.regret(baseline_of(table.plan)))
    return Results(courses, np.array(tolerances), np.array(before))


def _judges(table: Table, metric: Metric) -> Iterator[tuple[tuple[int, ...], Judge]]:
    """Endlessly."""
    judges = [(seen, Judge(table, judging, metric)) for seen, judging in splits(table)]
    while True:
        yield from judges


def line(name: str, results: Results, *, seconds: float) -> str:
    """A row of the printed table."""
    until, stays = results.until(), results.for_good()
    regret = results.regret(BUDGETS)
    found = f"{np.mean(until < CAP):.0%}"
    spent = f"{np.mean(until):6.2f} {np.median(until):6.2f} {found:>5} {np.mean(stays):6.2f}"
    ends = float(np.mean([course.end for course in results.courses]))
    regrets = " ".join(f"{value:6.2f}" for value in regret.mean(axis=0))
    return f"{name:24} {spent} {ends:6.2f} | {regrets} | {seconds / len(until):.3f}"


def header() -> str:
    """Above the rows."""
    budgets = " ".join(f"{budget:6g}" for budget in BUDGETS)
    spent = f"{'until':>6} {'median':>6} {'found':>5} {'stays':>6} {'end':>6}"
    return f"{'search':24} {spent} | {budgets} | s"


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
    arguments = parser.parse_args()
    engine = ENGINES[arguments.engine]
    for name in arguments.table or development[:1]:
        table = Table.read(TABLES / f"{name}.npz")
        print(f"{name}, {arguments.metric}, {engine.name}; n = {arguments.repetitions}")
        print(header())
        for search in arguments.search or SEARCHES:
            began = time.process_time()
            results = run(
                make_search(search, **_given(arguments.set)),
                table,
                metric=arguments.metric,
                engine=engine,
                repetitions=arguments.repetitions,
            )
            print(line(search, results, seconds=time.process_time() - began), flush=True)


if __name__ == "__main__":
    main()
