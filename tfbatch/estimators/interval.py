"""Means and their confidence intervals; of a ratio of means Fieller's set, perhaps without end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from tfbatch.errors import InputError


@dataclasses.dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: Lower end; -inf where there is none.
        high: Upper end; inf where there is none.
        level: Nominal coverage.
    """

    low: float
    high: float
    level: float = 0.95

    @property
    def bounded(self) -> bool:
        """Whether both ends are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __contains__(self, value: float) -> bool:
        """Whether the value lies within, ends included."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        """For a table, e.g. "[12.5, 40]"."""
        return f"[{self.low:.4g}, {self.high:.4g}]"


@dataclasses.dataclass(frozen=True)
class Moments:
    """Two paired means and the (co)variances of these means.

    Attributes:
        numerator: Mean of the numerator.
        denominator: Mean of the denominator.
        numerator_variance: Squared standard error of the numerator's mean.
        denominator_variance: Squared standard error of the denominator's mean.
        covariance: Covariance of the two means.
        freedom: Degrees of freedom of the variances.
    """

    numerator: float
    denominator: float
    numerator_variance: float
    denominator_variance: float
    covariance: float
    freedom: float


def quantile_of_t(freedom: float, *, level: float) -> float:
    """Two-sided quantile of Student's t; infinite without a degree of freedom.

    Raises:
        InputError: A level that is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise InputError(f"`level` must be > 0 and < 1. Received: {level=}.")
    return float(stats.t.ppf(0.5 + level / 2, freedom)) if freedom > 0 else math.inf


def interval_of_positive_ratio(moments: Moments, *, level: float = 0.95) -> Interval:
    """Fieller's interval (1954) of a ratio that is known to be positive.

    It holds every ratio r for which `numerator - r * denominator` is not shown to differ from 0
    by a t test, so that it grows without bound as the denominator comes near 0, as it should:

        (n - r d)^2 <= t^2 (var_n - 2 r cov + r^2 var_d)

    A denominator not shown to be positive gives no upper end. Where the set falls in two pieces,
    the interval is its hull.

    Raises:
        InputError: A level that is not between 0 and 1.
    """
    t = quantile_of_t(moments.freedom, level=level)
    if math.isinf(t):
        return Interval(0.0, math.inf, level)
    n, d = moments.numerator, moments.denominator
    a = d * d - t * t * moments.denominator_variance
    b = n * d - t * t * moments.covariance
    c = n * n - t * t * moments.numerator_variance
    discriminant = b * b - a * c
    if a > 0 and d < 0:  # shown to be negative, which it is not: nothing is known
        return Interval(0.0, math.inf, level)
    if a <= 0:
        return Interval(_end_of_gap(a, b, discriminant), math.inf, level)
    root = math.sqrt(max(discriminant, 0.0))
    return Interval(max((b - root) / a, 0.0), max((b + root) / a, 0.0), level)


def _end_of_gap(a: float, b: float, discriminant: float) -> float:
    """Everything but a gap is in the set: a gap around 0 leaves only the ratios above it."""
    if a == 0 or discriminant <= 0:
        return 0.0
    begins, ends = (sign * math.sqrt(discriminant) / a + b / a for sign in (1, -1))
    return ends if begins < 0 < ends else 0.0


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
    return quantile_of_t(freedom, level=level) * deviation / math.sqrt(count)
