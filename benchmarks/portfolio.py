"""Whether the search by trunks should begin with cells that were good elsewhere, on replay tables.

usage: python benchmarks/portfolio.py [TABLE ...] [--repetitions=40] [--tables=FOLDER]

A portfolio is a short list of cells (octaves of the batch size around the baseline's, octaves of
the rate around the rule) that is trained before anything else. It is chosen greedily (as by Wistuba
et al. 2015, "Sequential model-free hyperparameter tuning"): the next cell is the one that lowers
the mean regret of the best of the list most, over problems: each is a table, a metric and a length
of its cool-downs. What diverged for a seed, or is further than four deviations from the best,
counts four.

Three searches are compared with the one without a portfolio, in the same repetitions: a portfolio
of the other tables, one of all development tables (on these it has seen the answer), and that with
the bracket left out. A held-out table chooses none.

Result: NEGATIVE. Chosen on the other table a portfolio costs 3.2 [1.7, 5.1] trainings more until
the answer is within the tolerance; chosen on the judging table too it saves 2.0 [0.6, 3.5]. On the
held-out table it costs 0.25 of a training.
Evidence: benchmarks/results/search_replay.md
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from replay.measures import BEST_CELLS
from replay.plan import PLANS, Training
from replay.searches import ENGINES, Make, Task, make_search
from replay.table import Metric, Table
from search_replay import TABLES, results_of, run

from tfbatch.oracles._cell_ranking import CellRanking
from tfbatch.oracles._cells import Cells
from tfbatch.oracles._lengths import Training as Asked
from tfbatch.oracles.trunks import Settings, Trunks

Place = tuple[float, float]
"""Octaves of the batch size around the baseline's, and of the rate around the rule."""
Array = npt.NDArray[np.float64]
CELLS = 4
MOST = 4.0
_RESAMPLES = 10_000
_NO_GAIN = 1e-9


def regrets(table: Table, metric: Metric, length: int) -> dict[Place, float]:
    """Of every cell's cool-down: how far from the best, in deviations between seeds."""
    plan, sign = table.plan, 1.0 if metric == "loss" else -1.0
    seeds = range(1, plan.seeds + 1)
    values: dict[Place, Array] = {}
    for size, octaves in itertools.product(plan.batch_sizes, plan.octaves):
        training = Training(size, octaves, "cool_down", length)
        made = [table.trained(training, seed) for seed in seeds]
        scores = [t.value(metric) if t.status == "completed" else math.nan for t in made]
        values[math.log2(size / plan.base_batch_size), octaves] = sign * np.array(scores)
    whole = sorted((v for v in values.values() if np.isfinite(v).all()), key=np.mean)
    deviation = math.sqrt(np.mean([v.var(ddof=1) for v in whole[:BEST_CELLS]]))
    away = {place: (v.mean() - whole[0].mean()) / deviation for place, v in values.items()}
    return {place: min(d, MOST) if math.isfinite(d) else MOST for place, d in away.items()}


def portfolio_of(tables: Iterable[Table]) -> tuple[Place, ...]:
    """The list that is chosen on some tables."""
    return cover(
        [
            regrets(table, metric, length)
            for table in tables
            for metric in get_args(Metric)
            for length in table.plan.lengths
        ]
    )


def cover(problems: Sequence[Mapping[Place, float]], cells: int = CELLS) -> tuple[Place, ...]:
    """The list of most gain over problems; shorter where a further cell gains nothing."""
    everywhere = sorted(set.intersection(*(set(problem) for problem in problems)))
    chosen: list[Place] = []

    def left(places: Sequence[Place]) -> float:
        return sum(min(problem[one] for one in places) for problem in problems)

    while len(chosen) < min(cells, len(everywhere)):
        best = min(everywhere, key=lambda place: left([*chosen, place]))
        if chosen and left([*chosen, best]) >= left(chosen) - _NO_GAIN:
            break
        chosen.append(best)
    return tuple(chosen)


class PortfolioFirst(Trunks):
    """The search by trunks, which judges a list of cells at their shortest length first.

    Args:
        portfolio: The list.
        settings: Of the search.
        task: What it searches.
    """

    def __init__(self, portfolio: Sequence[Place], settings: Settings, task: Task):
        premises = task.premises()
        super().__init__(
            settings,
            Cells(task.hyperparameters(), premises),
            direction=task.direction,
            total_examples=task.table.plan.total_examples,
            premises=premises,
        )
        self._portfolio = portfolio

    def _bracket(self, ranking: CellRanking) -> Asked | Literal["wait"] | None:
        wanted = []
        for octaves, rate in self._portfolio:
            size = round(self._cells.reference * 2.0**octaves)
            if size in self._cells.sizes and self._lengths.judged(size):
                own = ranking.of_size(size)
                near = min(own, key=lambda c: abs(c.rate - self._cells.start - rate), default=None)
                if near is not None and not self._made.longest(near):
                    wanted.append((near, self._lengths.judged(size)[0]))
        return self._first_free(wanted) or super()._bracket(ranking)


def with_portfolio(portfolio: Sequence[Place], **settings: bool) -> Make:
    """Trunks with a portfolio and its other settings."""
    return lambda task: PortfolioFirst(portfolio, Settings(name="trunks", **settings), task)


def spent_and_regret(make: Make, table: Table, metric: Metric, repetitions: int) -> Array:
    """Trainings until the answer is within the tolerance, and its regret at the end; [2, n]."""
    engine = ENGINES["examples"]
    simulated = run(make, table, metric=metric, engine=engine, repetitions=repetitions)
    found = results_of(simulated, table, metric=metric, engine=engine)
    return np.stack([found.until, found.regret_at(25.0)])


def interval(differences: Array, splits: int) -> str:
    """Mean and a 95 % bootstrap interval over splits of the seeds, which repeat in turn."""
    each = np.array([differences[k::splits].mean() for k in range(min(splits, len(differences)))])
    drawn = np.random.default_rng(0).integers(len(each), size=(_RESAMPLES, len(each)))
    low, high = np.quantile(each[drawn].mean(axis=1), [0.025, 0.975])
    return f"{each.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def compare(
    table: Table, candidates: Mapping[str, Make], repetitions: int
) -> dict[str, list[Array]]:
    """Differences from the search without a portfolio, by candidate, for each metric; printed."""
    splits = math.comb(table.plan.seeds, table.plan.search_seeds)
    found: dict[str, list[Array]] = {name: [] for name in candidates}
    for metric in get_args(Metric):
        without = spent_and_regret(make_search("trunks"), table, metric, repetitions)
        until, end = without.mean(axis=1)
        print(f"{table.plan.name}, {metric}: without {until:.2f} trainings, at the end {end:.2f}")
        for name, make in candidates.items():
            made = spent_and_regret(make, table, metric, repetitions)
            found[name].append(made - without)
            until, end = (interval(d, splits) for d in made - without)
            print(f"  {name:34} {made[0].mean():6.2f}: {until}   {made[1].mean():5.2f}: {end}")
    return found


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="*", default=["digits_mlp", "digits_small_cnn"])
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--tables", type=Path, default=TABLES)
    arguments = parser.parse_args()
    development = {
        plan.name: Table.read(arguments.tables / f"{plan.name}.npz")
        for plan in PLANS
        if plan.role == "development" and plan.search_seeds
    }
    differences: dict[str, list[Array]] = {}
    for name in arguments.table:
        table = development.get(name) or Table.read(arguments.tables / f"{name}.npz")
        others = portfolio_of(t for other, t in development.items() if other != name)
        every = portfolio_of(development.values())
        print(f"{name}: of the others {others}; of all of development {every}")
        candidates = {
            "chosen on the others": with_portfolio(others),
            "chosen on all of development": with_portfolio(every),
            "the same, without the bracket": with_portfolio(every, bracket=False),
        }
        for candidate, found in compare(table, candidates, arguments.repetitions).items():
            differences.setdefault(candidate, []).extend(found)
    for candidate, found in differences.items():
        until, end = (interval(d, 20) for d in np.mean(found, axis=0))
        print(f"mean, {candidate:28} {until}   {end}")


if __name__ == "__main__":
    main()
