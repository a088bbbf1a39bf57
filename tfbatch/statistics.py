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


def t_half_width(deviation: float, count: float, freedom: int, *, level: float = 0.95) -> float:
    """Half width of a mean's t interval: t * deviation / sqrt(count); infinite without data."""
    if freedom < 1:
        return math.inf
    return float(stats.t.ppf(0.5 + level / 2, freedom)) * deviation / math.sqrt(count)
