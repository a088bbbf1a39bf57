"""The few statistics that verdicts rest on: exact, for small numbers of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from tfbatch.errors import InputError


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); the deviation of one value is NaN.

    Raises:
        InputError: No values.
    """
    if not values:
        raise InputError("At least one value is needed. Received: none.")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), deviation


def paired_residual_deviation(table: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Noise that is left when the means of configurations and of seeds are taken out.

    Args:
        table: One row for each configuration, one column for each seed.

    Returns:
        The residual standard deviation of the additive model and its degrees of freedom,
        (configurations - 1) * (seeds - 1); NaN and 0 where there are none.

    Raises:
        InputError: Rows of unequal length.
    """
    if len({len(row) for row in table}) != 1:
        raise InputError("Every configuration must have the same seeds.")
    values = np.asarray(table, np.float64)
    freedom = (values.shape[0] - 1) * (values.shape[1] - 1)
    if freedom < 1:
        return math.nan, 0
    rest = values - values.mean(0, keepdims=True) - values.mean(1, keepdims=True) + values.mean()
    return float(np.sqrt((rest**2).sum() / freedom)), int(freedom)


def t_half_width(deviation: float, count: float, freedom: int, *, level: float = 0.95) -> float:
    """Half width of a mean's t interval: t * deviation / sqrt(count); infinite without data."""
    if freedom < 1:
        return math.inf
    return float(stats.t.ppf(0.5 + level / 2, freedom)) * deviation / math.sqrt(count)
