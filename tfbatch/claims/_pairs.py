"""Effects from paired runs: differences, and choices that never see the seed they are judged by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from tfbatch.estimators.first_hit import StepsToTarget

Table = Mapping[int, Sequence[float]]
"""A value of each seed at each batch size."""


def differences(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    """One less the other, seed by seed."""
    return tuple(a - b for a, b in zip(one, other, strict=True))


def best_for_others(table: Table, sizes: Sequence[int], seed: int) -> int:
    """The size with the largest mean over all seeds but one.

    A maximum over noisy values looks too good; chosen by other seeds it does not.

    Args:
        table: The values, larger is better.
        sizes: The sizes to choose from.
        seed: The index of the seed that is left out.
    """

    def mean(size: int) -> float:
        values = table[size]
        return statistics.fmean(v for index, v in enumerate(values) if index != seed)

    return max(sizes, key=mean)


def gains(table: Table, sizes: Sequence[int], others: Sequence[int]) -> tuple[float, ...]:
    """How much the best of some sizes is better than the best of others, for each seed.

    Args:
        table: The values, larger is better.
        sizes: Some sizes.
        others: The others.
    """
    count = len(next(iter(table.values())))
    return tuple(
        table[best_for_others(table, sizes, seed)][seed]
        - table[best_for_others(table, others, seed)][seed]
        for seed in range(count)
    )


def spreads(table: Table) -> tuple[float, ...]:
    """Best less worst size for each seed, both chosen by the other seeds."""
    worst = {size: [-value for value in values] for size, values in table.items()}
    count = len(next(iter(table.values())))
    sizes = list(table)
    return tuple(
        table[best_for_others(table, sizes, seed)][seed]
        - table[best_for_others(worst, sizes, seed)][seed]
        for seed in range(count)
    )


def falls(table: Table) -> tuple[float, ...]:
    """How far the fitted line of the values over log2 B falls from the smallest to the largest."""
    x = [math.log2(size) for size in table]
    middle = statistics.fmean(x)
    squares = sum((value - middle) ** 2 for value in x)
    columns = list(zip(*table.values(), strict=True))
    slopes = [
        sum((a - middle) * y for a, y in zip(x, values, strict=True)) / squares
        for values in columns
    ]
    return tuple(-slope * (max(x) - min(x)) for slope in slopes)


def log_steps(runs: Sequence[StepsToTarget]) -> list[float]:
    """Log of the updates to the target; of one that fell short the log of those it made."""
    return [math.log(run.steps) for run in runs]


def fell_short(*cells: Sequence[StepsToTarget]) -> int:
    """Number of seeds of which some run did not reach the target."""
    return sum(not all(run.reached for run in pair) for pair in zip(*cells, strict=True))


def successes(one: Sequence[StepsToTarget], other: Sequence[StepsToTarget]) -> tuple[float, ...]:
    """1 where only the first of a pair reached the target, -1 where only the second did, else 0."""
    return tuple(float(a.reached) - float(b.reached) for a, b in zip(one, other, strict=True))
