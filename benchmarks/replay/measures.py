"""What a simulated search is measured by: regret on seeds that it has not seen, and its price."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from replay.simulate import UNTRAINED, Cell, Moment
from replay.table import Metric, Table

HALF_A_POINT = 0.005
"""Accuracies that lie no further apart are as good."""
BEST_CELLS = 10
"""The deviation between seeds is pooled over so many of the best configurations."""
Array = npt.NDArray[np.float64]


def splits(table: Table) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All ways to part the seeds into those that a search sees and those that judge it."""
    every = range(1, table.plan.seeds + 1)
    for seen in itertools.combinations(every, table.plan.search_seeds):
        yield seen, tuple(seed for seed in every if seed not in seen)


class Judge:
    """Judges answers by the mean over seeds that no search has seen.

    The best known is what has the best mean over all seeds: the best of many means over the judging
    seeds alone would be too good by luck, and nobody's regret would be small. So a regret can be
    negative, and is not cut off at 0: its mean over splits is nearly unbiased. A seed that diverged
    counts as an untrained model; one whose time ran out on a busy machine is left out of the mean.

    Args:
        table: The table.
        seeds: Those that judge.
        metric: What is judged.

    Attributes:
        seeds: Those that judge.
        best: The best known configuration.
        deviation: Between seeds, pooled over the best configurations.
        tolerance: An answer that is worse by no more is as good: half a point of accuracy, or the
            deviation of the loss between seeds.
    """

    def __init__(self, table: Table, seeds: Sequence[int], metric: Metric):
        self._table, self.seeds, self._metric = table, tuple(seeds), metric
        self._sign = 1.0 if metric == "loss" else -1.0
        every = range(1, table.plan.seeds + 1)
        cells = self._ranked(every)
        self.best = cells[0]
        best = [self._values(cell, every) for cell in cells[:BEST_CELLS]]
        deviations = [statistics.stdev(values) for values in best if len(values) > 1]
        self.deviation = math.sqrt(statistics.fmean(d**2 for d in deviations))
        self.tolerance = HALF_A_POINT if metric == "accuracy" else self.deviation

    def leader(self, seeds: Sequence[int]) -> Cell:
        """The configuration of the best mean over some seeds."""
        return self._ranked(seeds)[0]

    def _ranked(self, seeds: Sequence[int]) -> list[Cell]:
        return sorted(cells_of(self._table), key=lambda cell: self._sign * self.mean(cell, seeds))

    def mean(self, cell: Cell, seeds: Sequence[int]) -> float:
        """The mean of a configuration's final metric over some seeds."""
        return statistics.fmean(self._values(cell, seeds))

    def _values(self, cell: Cell, seeds: Sequence[int]) -> list[float]:
        training, untrained = cell.training(self._table.plan), UNTRAINED[self._metric]
        made = [self._table.trained(training, seed) for seed in seeds]
        made = [one for one in made if one.status != "timeout"] or made
        return [t.value(self._metric) if t.status == "completed" else untrained for t in made]

    @functools.cache  # noqa: B019 - a judge lives as long as the benchmark
    def regret(self, cell: Cell) -> float:
        """How much worse an answer is than the best known."""
        return self._sign * (self.mean(cell, self.seeds) - self.mean(self.best, self.seeds))


def cells_of(table: Table) -> list[Cell]:
    """All configurations that can be answered."""
    plan = table.plan
    grid = itertools.product(plan.batch_sizes, plan.octaves, ("wsd", "cosine"))
    return [Cell(size, octaves, schedule) for size, octaves, schedule in grid]  # type: ignore[arg-type]


def of_everything(table: Table, metric: Metric, seeds: int) -> Array:
    """Regrets in tolerances of someone who trains everything whole and takes the best mean.

    What no search can be blamed for: the best of many noisy means is mostly not the best.

    Args:
        table: The table.
        metric: What is judged.
        seeds: How many trainings of each; all choices of so many seeds, in all splits.
    """
    found = []
    for seen, judging in splits(table):
        judge = Judge(table, judging, metric)
        for chosen in itertools.combinations(seen, seeds):
            found.append(judge.regret(judge.leader(chosen)) / judge.tolerance)
    return np.array(found)


@dataclasses.dataclass(frozen=True)
class Course:
    """The regret of a search's answer as it goes on.

    Attributes:
        spent: Examples or seconds at which the answer changed, ascending.
        regret: From there on.
        end: What the whole search cost.
    """

    spent: Array
    regret: Array
    end: float

    @classmethod
    def of(cls, moments: Sequence[Moment], judge: Judge, *, seconds: bool) -> Course:
        """The course of a simulated search."""
        known = [moment for moment in moments if moment.answer is not None]
        spent = [m.ended.seconds if seconds else float(m.ended.examples) for m in known]
        last = moments[-1].ended if moments else None
        end = 0.0 if last is None else last.seconds if seconds else float(last.examples)
        regrets = [judge.regret(m.answer) for m in known if m.answer is not None]
        return cls(np.array(spent), np.array(regrets), end)

    def at(self, spent: Array, *, before: float) -> Array:
        """The regret when so much was spent.

        Args:
            spent: Examples or seconds, [n].
            before: The regret before the first answer: that of the baseline.
        """
        place = np.searchsorted(self.spent, spent, side="right")
        return np.concatenate([[before], self.regret])[place]

    def until(self, tolerance: float) -> float:
        """What was spent when the answer came within the tolerance; infinite where it never did."""
        within = np.flatnonzero(self.regret <= tolerance)
        return float(self.spent[within[0]]) if len(within) else math.inf

    def for_good(self, tolerance: float) -> float:
        """The same, and it stayed there to the search's end."""
        beyond = np.flatnonzero(self.regret > tolerance)
        first = beyond[-1] + 1 if len(beyond) else 0
        return float(self.spent[first]) if first < len(self.spent) else math.inf


def bootstrap_ratio(
    ours: Array, theirs: Array, *, rng: np.random.Generator, resamples: int = 2_000
) -> tuple[float, float, float]:
    """Mean of theirs over mean of ours with a 95 % interval over paired repetitions.

    Args:
        ours: What one search spent, [repetitions]; finite.
        theirs: What the other one spent in the same repetitions.
        rng: Draws the repetitions.
        resamples: Bootstrap samples (percentile interval, Efron 1979).
    """
    drawn = rng.integers(len(ours), size=(resamples, len(ours)))
    ratios = theirs[drawn].mean(axis=1) / ours[drawn].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(theirs.mean() / ours.mean()), float(low), float(high)
