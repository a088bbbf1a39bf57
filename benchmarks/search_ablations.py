"""What each element of the search by trunks is worth, on the replay tables: all but one at a time.

usage: python benchmarks/search_ablations.py [TABLE ...] [--without=ladder ...]
           [--start=BATCH_SIZE,OCTAVES ...] [--repetitions=40] [--tables=FOLDER]

Each element is a switch of `oracles/trunks.py`. The search without it is compared with the whole
one in the same repetitions, in loss and in accuracy, from each start: whole trainings until the
answer is first within the tolerance (the cap of 25 where it never is), and the regret at the end in
tolerances, cut off at 5 (what diverges counts as far more, and would decide alone). Intervals are
of a bootstrap over the splits of the seeds. A positive difference says that the element helps.

Result: over 12 cases the bracket is worth 8.1 [7.3, 8.8] trainings and 1.31 tolerances, the ladder
1.1 [0.4, 1.7] and 0.33 [0.23, 0.42]; the bound on the rate 0.15 [0.00, 0.30] and -0.14 [-0.24,
-0.05]; the other schedules nothing. A pilot and other seeds lost, and are deleted.
Evidence: benchmarks/results/search_replay.md
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import get_args

import numpy as np
from portfolio import Array, interval
from replay.searches import ENGINES, baseline_of, make_search
from replay.simulate import Cell
from replay.table import Metric, Table
from search_replay import TABLES, results_of, run

ELEMENTS = ("bracket", "ladder", "bounded", "schedules")
_CUT_OFF = 5.0


def spent_and_regret(
    table: Table, metric: Metric, start: Cell, repetitions: int, **settings: bool
) -> Array:
    """Trainings until within the tolerance, and the regret at the end, cut off; [2, n]."""
    engine, make = ENGINES["examples"], make_search("trunks", **settings)
    simulated = run(make, table, metric=metric, engine=engine, repetitions=repetitions, start=start)
    found = results_of(simulated, table, metric=metric, engine=engine, start=start)
    return np.stack([found.until, np.minimum(found.regret_at(25.0), _CUT_OFF)])


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = ["digits_mlp", "digits_small_cnn", "cifar10_small_cnn"]
    parser.add_argument("table", nargs="*", default=tables)
    parser.add_argument("--without", action="append", choices=ELEMENTS)
    parser.add_argument("--start", action="append", default=[])
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--tables", type=Path, default=TABLES)
    asked = parser.parse_args()
    differences: dict[str, list[Array]] = {}
    print("| table, metric, start | all elements | without | until, trainings | at the end |")
    print("| --- | --- | --- | --- | --- |")
    for name in asked.table:
        table = Table.read(asked.tables / f"{name}.npz")
        splits = math.comb(table.plan.seeds, table.plan.search_seeds)
        own = baseline_of(table.plan)
        starts = [own, *(Cell.of_user(text) for text in asked.start)]
        for metric in get_args(Metric):
            for start in starts:
                case = table, metric, start, asked.repetitions
                whole = spent_and_regret(*case)
                until, end = whole.mean(axis=1)
                for element in asked.without or ELEMENTS:
                    made = spent_and_regret(*case, **{element: False}) - whole
                    differences.setdefault(element, []).append(made)
                    shown = " | ".join(interval(one, splits) for one in made)
                    print(
                        f"| {name}, {metric}, {start.batch_size},{start.octaves:g} "
                        f"| {until:.2f}, {end:.2f} | {element} | {shown} |",
                        flush=True,
                    )
    for element, found in differences.items():
        shown = " | ".join(interval(one, splits) for one in np.mean(found, axis=0))
        print(f"| mean of {len(found)} | | {element} | {shown} |")


if __name__ == "__main__":
    main()
