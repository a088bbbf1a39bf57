"""Peak memory against the batch size: a line through small sizes that says how far it errs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval, quantile_of_t
from tfbatch.estimators.vectors import Array, check_positive, check_same_length, checked_array


@dataclasses.dataclass(frozen=True)
class MemoryPrediction:
    """A PREDICTION of the largest batch size under a budget. Verify it by running it.

    Attributes:
        batch_size: Predicted largest size that fits; 0 if even the fixed part does not.
        interval: Prediction interval of it; without an upper end if memory was not shown to grow.
        fixed_bytes: Bytes that do not depend on the batch size.
        bytes_per_example: Bytes that each further example costs.
        misfit: Largest share by which the line misses a measured peak.
        reach: Predicted size divided by the largest measured one: the further, the less sure.
        curved: Whether the measured peaks bend away from a line by more than their noise.
    """

    batch_size: int
    interval: Interval
    fixed_bytes: float
    bytes_per_example: float
    misfit: float
    reach: float
    curved: bool

    def __str__(self) -> str:
        """For a table, e.g. "predicted: 512 [480, 540]"."""
        bend = "; memory does not grow in a line" if self.curved else ""
        return f"predicted: {self.batch_size} {self.interval}{bend}"


def predict_largest_batch_size(
    batch_sizes: npt.ArrayLike,
    peak_bytes: npt.ArrayLike,
    *,
    budget_bytes: float,
    margin: float = 0.05,
    noise: float = 0.03,
    level: float = 0.95,
) -> MemoryPrediction:
    """Extends a least-squares line to a budget.

    The peaks of a process hold allocator steps and, at small sizes, a floor left by start-up, so
    that a line through small sizes misses: one through 16, 32 and 64 missed 512 by 9 %. The
    interval therefore takes the larger of the line's own residuals and `noise`, and widens with
    the distance from the measured sizes as any extrapolation does; with 3 or more sizes the line
    is weighted by its relative errors. A bend that is still to come cannot be seen.

    Args:
        batch_sizes: [n] measured sizes, at least two distinct ones.
        peak_bytes: [n] peak memory of each.
        budget_bytes: Bytes that may be used.
        margin: Share of the budget that is kept free.
        noise: Smallest relative standard deviation that a single peak is believed to have.
        level: Coverage of the interval.

    Raises:
        InputError: Fewer than two distinct sizes, values that are not > 0, a margin or noise
            below 0 or above 1.
    """
    sizes = checked_array(batch_sizes, name="batch_sizes", at_least=2)
    peaks = checked_array(peak_bytes, name="peak_bytes", at_least=2)
    check_same_length(batch_sizes=sizes, peak_bytes=peaks)
    check_positive(budget_bytes=budget_bytes)
    if len(np.unique(sizes)) < 2:
        raise InputError(f"`batch_sizes` must hold two distinct ones. Received: {sizes.tolist()}.")
    if not (0 <= margin < 1 and 0 < noise < 1):
        raise InputError(
            f"`margin` and `noise` must be shares of 1. Received: {margin=}, {noise=}."
        )
    usable = budget_bytes * (1 - margin)
    fixed, slope, covariance, deviation = _weighted_line(sizes, peaks, noise)
    misfit = np.abs((fixed + slope * sizes) / peaks - 1)
    predicted = _crossing(fixed, slope, usable)
    freedom = len(sizes) - 2 if deviation > noise else math.inf
    return MemoryPrediction(
        batch_size=int(min(predicted, 2**62)),
        interval=_interval(fixed, slope, covariance, usable, freedom, level),
        fixed_bytes=fixed,
        bytes_per_example=slope,
        misfit=float(misfit.max()),
        reach=predicted / float(sizes.max()),
        curved=bool(deviation > 2 * noise),
    )


def _weighted_line(sizes: Array, peaks: Array, noise: float) -> tuple[float, float, Array, float]:
    """Fixed part, slope, their covariance, and the relative standard deviation of a peak."""
    design = np.stack([np.ones_like(sizes), sizes], axis=1) / peaks[:, None]
    inverse = np.linalg.inv(design.T @ design)
    fixed, slope = inverse @ design.T @ np.ones_like(sizes)
    residuals = fixed * design[:, 0] + slope * design[:, 1] - 1
    freedom = len(sizes) - 2
    deviation = math.sqrt(residuals @ residuals / freedom) if freedom else 0.0
    covariance = np.asarray(inverse * max(deviation, noise) ** 2, dtype=np.float64)
    return float(fixed), float(slope), covariance, deviation


def _crossing(fixed: float, slope: float, usable: float) -> float:
    if slope <= 0:
        return math.inf if fixed <= usable else 0.0
    return max((usable - fixed) / slope, 0.0)


def _interval(
    fixed: float, slope: float, covariance: Array, usable: float, freedom: float, level: float
) -> Interval:
    """Fieller's set for the crossing: sizes at which the line is not shown to miss the budget."""
    t = quantile_of_t(freedom, level=level)
    gap = usable - fixed
    a = slope**2 - t * t * float(covariance[1, 1])
    b = gap * slope + t * t * float(covariance[0, 1])
    c = gap**2 - t * t * float(covariance[0, 0])
    discriminant = b * b - a * c
    if slope <= 0 or a <= 0 or discriminant < 0:
        return Interval(0.0, math.inf, level)
    root = math.sqrt(discriminant)
    return Interval(max((b - root) / a, 0.0), max((b + root) / a, 0.0), level)
