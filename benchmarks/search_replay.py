"""Searches simulated on the replay tables: what each costs until its answer is as good as the best.

usage: python benchmarks/search_replay.py [--table=TABLE ...] [--search=NAME ...]
           [--metric=loss|accuracy] [--engine=examples|tfbatch|keras_tuner ...] [--repetitions=N]
           [--start=BATCH_SIZE,OCTAVES] [--set=KEY=VALUE ...] [--name=NAME] [--keep]
           [--tables=FOLDER]
       python benchmarks/search_replay.py --everything [--table=TABLE ...] [--metric=...]

A repetition parts the table's seeds into those that the search sees, in an order of its own, and
those that judge it (all splits in turn), and has a seed of its own for the search. `--set` gives a
search's settings, and `--name` then the name of the row. `--keep` keeps the result in
benchmarks/results/search_replay, from which search_replay_page.py makes tables and figure. A user
who trains with something else than the table's baseline is `--start`, with a cosine schedule.

`--everything` simulates no search: it says how far from the best known someone is who
trains every configuration whole, with one seed or more, and takes the best.

Columns: full trainings of the baseline until the answer was first within the tolerance of the best
known (mean, median, share of repetitions; where it never was, the cap of 25, or what the search
cost if that is more), until it stayed there, at the search's end; then the regret, in tolerances,
at some budgets (mean, and median in brackets).

Not counted: the baseline itself and verification, which cost all searches the same. The baseline is
everybody's answer until something is better.

Result: MIXED. Until within one deviation of the best, trunks take 2.6 x fewer examples than the
best of i-Epoch and Optuna on digits_small_cnn, 1.9 x more on digits_mlp. On cifar10_small_cnn they
begin with the best; from other starts they come furthest for their price, and not to the end.
With 12 whole trainings behind them they end nearer than KerasTuner's Gaussian process with 25.
Evidence: benchmarks/results/search_replay.md
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
from replay.measures import Course, Judge, cells_of, of_everything, splits
from replay.plan import PLANS
from replay.searches import ENGINES, SEARCHES, Make, Task, baseline_of, make_search
from replay.simulate import UNTRAINED, Cell, Engine, Moment, Replay, simulate
from replay.table import Metric, Table

from tfbatch.oracles import Told

TABLES = Path(__file__).parent / "replay" / "tables"
KEPT = Path(__file__).parent / "results" / "search_replay"
PRICED = ("trunks", "trunks_first", "trunks_first_always")
"""Searches that ask what a trial costs."""
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


@dataclasses.dataclass(frozen=True)
class Simulated:
    """The repetitions of one search.

    Attributes:
        repetitions: The ends of the trials of each, and who judges it.
        process_seconds: Of each, mean.
    """

    repetitions: list[tuple[list[Moment], Judge]]
    process_seconds: float


def run(
    make: Make,
    table: Table,
    *,
    metric: Metric,
    engine: Engine,
    repetitions: int,
    start: Cell | None = None,
) -> Simulated:
    """Simulates one search, repetition by repetition."""
    began = time.process_time()
    made = []
    judges = itertools.islice(_judges(table, metric), repetitions)
    for seed, (seen, judge) in enumerate(judges, start=1):
        # The first of them is what a search that numbers its seeds begins with.
        numbered = np.random.default_rng((seed, 1)).permutation(seen).tolist()
        rng = np.random.default_rng(seed)
        replay = Replay(table, engine=engine, metric=metric, seeds=numbered, rng=rng)
        task = Task(table, metric, engine, seed, start)
        own = replay.whole(task.baseline)
        score = own.value if own.status == "completed" else UNTRAINED[metric]
        task = dataclasses.replace(task, baseline_told=Told(score, own.status))
        most = round(CAP * table.plan.total_examples)
        found = simulate(make(task), replay, most_examples=most, baseline=task.baseline)
        made.append((found, judge))
    return Simulated(made, (time.process_time() - began) / repetitions)


def results_of(
    simulated: Simulated,
    table: Table,
    *,
    metric: Metric,
    engine: Engine,
    start: Cell | None = None,
) -> Results:
    """Measures the repetitions, in full trainings of the table's baseline on an engine."""
    unit = full_training(table, engine, metric)
    courses = []
    for moments, judge in simulated.repetitions:
        course = Course.of(moments, judge, seconds=engine.name != "examples")
        courses.append(Course(course.spent / unit, course.regret, course.end / unit))
    judges = [judge for _, judge in simulated.repetitions]
    return Results.of(
        courses,
        tolerances=[judge.tolerance for judge in judges],
        before=[judge.regret(start or baseline_of(table.plan)) for judge in judges],
        unit=unit,
        process_seconds=simulated.process_seconds,
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
        f"{until.mean():6.2f} {np.median(until):6.2f} {results.found.mean():5.0%} "
        f"{stays.mean():6.2f} {results.end.mean():6.2f}"
    )
    at = [results.regret_at(budget) for budget in SHOWN]
    regrets = " ".join(f"{found.mean():6.2f} ({np.median(found):5.2f})" for found in at)
    return f"{name:24} {spent} | {regrets} | {results.process_seconds:.3f}"


def everything(table: Table, metric: Metric) -> Iterator[str]:
    """A line for each number of seeds."""
    configurations = len(cells_of(table))
    for seeds in range(1, table.plan.search_seeds + 1):
        found = of_everything(table, metric, seeds)
        yield (
            f"{table.plan.name}, {metric}: all {configurations} configurations with {seeds} seeds: "
            f"regret {found.mean():.2f} (median {np.median(found):.2f}), within the tolerance "
            f"{(found <= 1).mean():.0%}, n = {len(found)}"
        )


def given(texts: Sequence[str]) -> dict[str, Any]:
    """Settings of a search, written as KEY=VALUE; a value is JSON, or else a text."""
    found = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    development = [plan.name for plan in PLANS if plan.role == "development"]
    parser.add_argument("--table", action="append", choices=[plan.name for plan in PLANS])
    parser.add_argument("--search", action="append", choices=list(SEARCHES))
    parser.add_argument("--metric", choices=get_args(Metric), default="loss")
    parser.add_argument("--engine", action="append", choices=list(ENGINES))
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--start", type=Cell.of_user, metavar="BATCH_SIZE,OCTAVES")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder of the tables")
    parser.add_argument("--everything", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.table or development[:1]:
        table = Table.read(arguments.tables / f"{name}.npz")
        if arguments.everything:
            print("\n".join(everything(table, arguments.metric)))
            continue
        for search in arguments.search or SEARCHES:
            _one(table, search, arguments)


def _one(table: Table, search: str, arguments: argparse.Namespace) -> None:
    """Runs a search on a table, and prints and keeps it."""
    metric, n, start = arguments.metric, arguments.repetitions, arguments.start
    make, row = make_search(search, **given(arguments.set)), arguments.name or search
    print(f"{table.plan.name}, {metric}; n = {n}\n{header()}")
    simulated: dict[str, Simulated] = {}
    for name in arguments.engine or ["examples"]:
        engine = ENGINES[name]
        # What does not ask for prices proposes the same wherever one trial runs at a time.
        alike = name if search in PRICED or engine.workers > 1 else "one worker"
        if alike not in simulated:
            # An engine with seconds: its clock counts examples too.
            runs_on = ENGINES["keras_tuner"] if alike == "one worker" else engine
            simulated[alike] = run(
                make, table, metric=metric, engine=runs_on, repetitions=n, start=start
            )
        results = results_of(simulated[alike], table, metric=metric, engine=engine, start=start)
        print(f"{line(row, results)} {name}", flush=True)
        if arguments.keep:
            path = KEPT / f"{table.plan.name}.npz"
            kept.write(path, {**kept.read(path), (metric, name, row): results})


if __name__ == "__main__":
    main()
