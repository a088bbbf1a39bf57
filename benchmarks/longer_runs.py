"""Whether short trainings tell the learning rate of a longer one, on the replay tables.

usage: python benchmarks/longer_runs.py [TABLE ...] [--metric=loss]

From the cool-downs at the shorter lengths the best rate at the full length is predicted for each
batch size, by the surface of the search with the full length as its own: its optimum moves with the
length in a straight line. It is judged by seeds that the prediction did not see: right is within an
octave of the best rate there. Beside it stand two that predict nothing: the best rate of the
longest length that was measured, kept as it is; and the best rate of the same seeds at the full
length, which is what one gets who pays for the whole grid at that length.

Result: NEGATIVE. The rate that is kept is within an octave at least as often as the predicted one
in all 16 cases (two tables, two metrics, twice and four times the length, one and three seeds).
Evidence: benchmarks/results/longer_runs.md
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from replay.table import Metric, Table

from tfbatch.estimators.rate_surface import RateSurface, SurfacePoint, SurfacePrior, as_error

TABLES = Path(__file__).parent / "replay" / "tables"
NAMES = ("digits_mlp", "digits_small_cnn")
LENGTHS = ((0, 1), (0, 1, 2))
"""Which of a table's lengths are measured; the last one is predicted."""
SEEDS = (1, 3)
"""How many seeds are measured; the others judge."""
_DRAWS = 1_000
_STEPS_AN_OCTAVE = 8
_OCTAVE = 1.0 + 1e-9

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Predicted:
    """Octaves around the scaling rule: the median of the optimum, and its 95 % interval."""

    octaves: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Cell:
    """What was predicted for one batch size, and the octaves of the rate that was best there."""

    predicted: Predicted
    kept: float
    in_full: float
    best: float

    @property
    def covered(self) -> bool:
        """Whether the interval holds the best rate, or comes as near as the grid can tell."""
        return self.predicted.low - 0.5 <= self.best <= self.predicted.high + 0.5


def predict(
    points: Sequence[SurfacePoint], values: Sequence[float], batches: Sequence[float]
) -> list[Predicted]:
    """The optimum at no remaining length for each batch size, from draws of the posterior.

    Args:
        points: What was measured, with the octaves that remain to the predicted length.
        values: What it came to, small is good; see `as_error`.
        batches: log2 of batch sizes over the reference.
    """
    surface = RateSurface(SurfacePrior(), points, values)
    low, high = min(p.rate for p in points), max(p.rate for p in points)
    grid = np.linspace(low, high, round((high - low) * _STEPS_AN_OCTAVE) + 1)
    found = []
    for batch in batches:
        asked = [SurfacePoint(batch, float(u)) for u in grid]
        # The surface has nine numbers: the covariance of many points has few values above 0.
        variances, directions = np.linalg.eigh(surface.covariance(asked, asked))
        root = directions * np.sqrt(np.maximum(variances, 0.0))
        normal = np.random.default_rng(0).standard_normal((_DRAWS, len(grid)))
        optima = grid[(surface.mean(asked) + normal @ root.T).argmin(axis=1)]
        below, middle, above = np.quantile(optima, [0.025, 0.5, 0.975])
        found.append(Predicted(float(middle), float(below), float(above)))
    return found


def means(table: Table, length: int, seeds: Sequence[int], metric: Metric) -> Array:
    """Mean of the metric over some seeds, of shape (batch sizes, rates); loss-like."""
    plan, sign = table.plan, 1.0 if metric == "loss" else -1.0
    values = [
        [
            [
                table.score(size, u, schedule="wsd", length=length, seed=seed, metric=metric)
                for seed in seeds
            ]
            for u in plan.octaves
        ]
        for size in plan.batch_sizes
    ]
    return sign * np.mean(values, axis=2)


def measured(
    table: Table, lengths: Sequence[int], seeds: Sequence[int], metric: Metric
) -> tuple[list[SurfacePoint], list[float]]:
    """All cool-downs of some lengths and seeds; what diverged is as bad as the worst of them."""
    plan = table.plan
    points, scores = [], []
    for length in lengths:
        remaining = math.log2(plan.total_examples / length)
        for seed in seeds:
            for size in plan.batch_sizes:
                batch = math.log2(size / plan.base_batch_size)
                for u in plan.octaves:
                    points.append(SurfacePoint(batch, u, remaining, f"{size} {u} {seed}"))
                    scores.append(
                        table.score(
                            size, u, schedule="wsd", length=length, seed=seed, metric=metric
                        )
                    )
    worst = max(score for score in scores if math.isfinite(score))
    direction = "min" if metric == "loss" else "max"
    return points, list(as_error([min(score, worst) for score in scores], direction))


def cells(table: Table, which: Sequence[int], count: int, metric: Metric) -> list[Cell]:
    """Every batch size, for each group of so many seeds that the table has."""
    plan = table.plan
    lengths = [plan.lengths[one] for one in which]
    batches = [math.log2(size / plan.base_batch_size) for size in plan.batch_sizes]
    found = []
    for first in range(1, plan.seeds + 1, count):
        seeds = range(first, first + count)
        others = [one for one in range(1, plan.seeds + 1) if one not in seeds]
        predicted = predict(*measured(table, lengths, seeds, metric), batches)
        best_of = [
            np.array(plan.octaves)[means(table, length, some, metric).argmin(axis=1)]
            for length, some in (
                (lengths[-1], seeds),
                (plan.total_examples, seeds),
                (plan.total_examples, others),
            )
        ]
        rows = zip(predicted, *best_of, strict=True)
        found += [Cell(one, *map(float, octaves)) for one, *octaves in rows]
    return found


def row(table: Table, which: Sequence[int], count: int, metric: Metric) -> str:
    """One line of the table in the evidence."""
    plan, found = table.plan, cells(table, which, count, metric)
    shares = " + ".join(f"1/{round(1 / plan.shares[one])}" for one in which)
    ratio = plan.total_examples / plan.lengths[which[-1]]
    off = {
        "predicted": [cell.predicted.octaves - cell.best for cell in found],
        "kept": [cell.kept - cell.best for cell in found],
        "in full": [cell.in_full - cell.best for cell in found],
    }
    right = " | ".join(f"{np.mean(np.abs(values) <= _OCTAVE):.0%}" for values in off.values())
    high = " | ".join(f"{np.mean(values):+.1f}" for values in off.values())
    wide = np.median([cell.predicted.high - cell.predicted.low for cell in found])
    covered = np.mean([cell.covered for cell in found])
    return (
        f"| {plan.name} | {metric} | {shares} | {ratio:g} x | {count} | {len(found)} | {right} "
        f"| {high} | {covered:.0%} | {wide:.1f} |"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", default=list(NAMES))
    parser.add_argument("--metric", choices=["loss", "accuracy"], default="loss")
    arguments = parser.parse_args()
    print(
        "| table | metric | measured | predicted | seeds | cells | right: predicted | kept "
        "| in full | octaves too high: predicted | kept | in full | interval holds it | wide |"
    )
    print("| --- " * 14 + "|")
    for name in arguments.tables:
        table = Table.read(TABLES / f"{name}.npz")
        for which in LENGTHS:
            for count in SEEDS:
                print(row(table, which, count, arguments.metric), flush=True)


if __name__ == "__main__":
    main()
