"""What short cool-downs, switched batch sizes and short trainings tell of whole ones.

usage: python benchmarks/branches.py [--table=TABLE ...] [--metric=loss|accuracy]

On the replay tables, all seeds: Kendall's tau-b of the cool-down branches of one seed against the
mean of the whole runs of the others, at each length and within the quarter of the configurations
that is best; the same for the trunk's own last value. Then a trunk that went on with another batch
size against training with that one from the beginning, in deviations between seeds; and how many
octaves the best rate of the long table lies from that of the short one.

Result: NEGATIVE in loss. Cool-downs of an eighth of the length have a tau of 0.40 and 0.48, where
whole runs have 0.51 and 0.57 (0.49 and 0.67 in accuracy); half of the switched trainings end within
one deviation.
Evidence: benchmarks/results/replay_tables.md
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
from replay.plan import PLANS, Training
from replay.table import Metric, Table, Trained

TABLES = Path(__file__).parent / "replay" / "tables"
BEST_SHARE = 0.25
"""Of the configurations that completed, for the tau among the good ones."""
Array = npt.NDArray[np.float64]


def whole_values(table: Table, metric: Metric) -> Array:
    """Of the trunks' whole runs, [cells, seeds]; infinite or 0 where one diverged."""
    length = table.plan.total_examples
    return _values(table, "cool_down", length, lambda one: one.value(metric))


def branch_values(table: Table, length: int, metric: Metric) -> Array:
    """Of the cool-downs of a length, [cells, seeds]."""
    return _values(table, "cool_down", length, lambda one: one.value(metric))


def trunk_values(table: Table, length: int, metric: Metric) -> Array:
    """Of the trunks where those cool-downs begin, [cells, seeds]."""
    return _values(table, "trunk", length, lambda one: one.value(metric))


def _values(table: Table, kind: str, length: int, value: Callable[[Trained], float]) -> Array:
    plan = table.plan
    cells = itertools.product(plan.batch_sizes, plan.octaves)
    seeds = range(1, plan.seeds + 1)
    return np.array(
        [
            [value(table.trained(Training(size, z, kind, length), seed)) for seed in seeds]  # type: ignore[arg-type]
            for size, z in cells
        ]
    )


def tau(judged: Array, whole: Array, *, metric: Metric, share: float = 1.0) -> tuple[float, int]:
    """Kendall's tau-b of one seed's ranks and those of the mean over the others, mean over seeds.

    Args:
        judged: What is ranked, [cells, seeds].
        whole: What it is to predict, [cells, seeds].
        metric: What both are.
        share: Of the cells, those whose whole runs are best over all seeds.

    Returns:
        Tau, and the number of cells that completed in both.
    """
    from scipy.stats import kendalltau

    completed = np.isfinite(judged).all(axis=1) & np.isfinite(whole).all(axis=1)
    if metric == "accuracy":
        completed &= (judged > 0).all(axis=1) & (whole > 0).all(axis=1)
    judged, whole = judged[completed], whole[completed]
    sign = 1 if metric == "loss" else -1
    kept = np.argsort(sign * whole.mean(axis=1), kind="stable")[: round(share * len(whole))]
    judged, whole = judged[kept], whole[kept]
    found = []
    for seed in range(whole.shape[1]):
        others = np.delete(whole, seed, axis=1).mean(axis=1)
        found.append(float(kendalltau(judged[:, seed], others).statistic))
    return statistics.fmean(found), len(kept)


def switched_deviations(table: Table, metric: Metric) -> list[tuple[Training, float, float]]:
    """How far a switched training ends from one with its batch size from the beginning.

    Returns:
        Each switch with the difference of the means over seeds (positive: the switched one is
        worse) and the pooled deviation between seeds of the two; those that diverged left out.
    """
    plan, sign = table.plan, 1.0 if metric == "loss" else -1.0
    seeds = range(1, plan.seeds + 1)
    found = []
    for training in plan.trainings():
        if training.kind != "switched":
            continue
        scratch = Training(training.batch_size, training.octaves, "cool_down", training.length)
        both = [[table.trained(t, s).value(metric) for s in seeds] for t in (training, scratch)]
        if not all(map(math.isfinite, both[0] + both[1])) or 0.0 in both[0] + both[1]:
            continue
        worse = sign * (statistics.fmean(both[0]) - statistics.fmean(both[1]))
        pooled = math.sqrt(statistics.fmean(statistics.variance(values) for values in both))
        found.append((training, worse, pooled))
    return found


def best_octaves(table: Table, size: int, length: int, seeds: tuple[int, ...]) -> float:
    """The rate of the grid with the best mean loss at a batch size and length."""
    values = {
        z: statistics.fmean(
            table.trained(Training(size, z, "cool_down", length), seed).value("loss")
            for seed in seeds
        )
        for z in table.plan.octaves
    }
    return min(values, key=lambda z: values[z])


def report(table: Table, metric: Metric) -> Iterator[str]:
    """The lines of one table."""
    plan = table.plan
    whole = whole_values(table, metric)
    yield f"{plan.name}, {metric}, {plan.seeds} seeds; tau of all, and of the best quarter"
    for share, length in zip(plan.shares, plan.lengths, strict=True):
        cells = []
        for judged in (branch_values, trunk_values):
            values = judged(table, length, metric)
            taus = [tau(values, whole, metric=metric, share=s) for s in (1.0, BEST_SHARE)]
            cells.append(", ".join(f"{value:.2f} (n = {n})" for value, n in taus))
        yield f"  {share:6.1%}: cool-downs {cells[0]}; trunks {cells[1]}"
    yield from _switches(table, metric)
    if len(plan.shares) == 2:
        yield from _longer(table)


def _switches(table: Table, metric: Metric) -> Iterator[str]:
    found = switched_deviations(table, metric)
    for larger in (True, False):
        units = [w / d for t, w, d in found if (t.batch_size > t.from_batch_size) == larger]
        if units:
            within = sum(abs(unit) <= 1 for unit in units)
            yield (
                f"  switched to a {'larger' if larger else 'smaller'} batch size: median "
                f"{statistics.median(units):+.2f} deviations worse, {within} of {len(units)} "
                "within one"
            )


def _longer(table: Table) -> Iterator[str]:
    seeds = tuple(range(1, table.plan.seeds + 1))
    for size in table.plan.batch_sizes:
        short, long = (best_octaves(table, size, n, seeds) for n in table.plan.lengths)
        yield f"  batch size {size}: best rate at {short:+g} octaves, ten times longer {long:+g}"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="append", choices=[plan.name for plan in PLANS])
    parser.add_argument("--metric", choices=get_args(Metric), default="loss")
    arguments = parser.parse_args()
    made = [
        p.name for p in PLANS if p.role == "development" and (TABLES / f"{p.name}.npz").exists()
    ]
    for name in arguments.table or made:
        print("\n".join(report(Table.read(TABLES / f"{name}.npz"), arguments.metric)))


if __name__ == "__main__":
    main()
