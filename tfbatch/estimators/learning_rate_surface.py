"""A metric against batch size and learning rate: a parabola whose top moves with the batch size.

    score(B, rate) = level(B) - curvature * (log2(rate) - top(B))**2        (the larger, the better)
    top(B) = start + slope * log2(B)

One curvature for all batch sizes, one line for the best rates (linear in the logarithms, as every
scaling rule that is a power), a level of its own for each batch size. Multiplied out it is linear
in its unknowns,

    score = level'(B) + a z**2 + b z + c z log2(B)              z = log2(rate)

so that least squares give it, the best rate of every size (-(b + c log2 B) / 2a), the exponent of
the rule (-c / 2a), and the error of every prediction. Quadratic surfaces around an optimum: Box and
Wilson 1951, "On the experimental attainment of optimum conditions".
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from tfbatch.errors import InputError
from tfbatch.estimators.interval import quantile_of_t
from tfbatch.estimators.vectors import Array, check_positive, check_same_length, checked_array
from tfbatch.metric_direction import Direction

OCTAVES = 3.0
"""Trials farther from the best rate of their size are left out: a parabola holds near its top."""
FEWEST_FREE = 3
"""Trials beyond the unknowns, so that an error can be told."""


@dataclasses.dataclass(frozen=True)
class Predicted:
    """A PREDICTION, no measurement.

    Attributes:
        mean: The predicted metric.
        half_width: Half of its 95 % interval, for one further training.
    """

    mean: float
    half_width: float


@dataclasses.dataclass(frozen=True)
class LearningRateSurface:
    """The fitted surface.

    Attributes:
        batch_sizes: Those with a level of their own, ascending.
        exponent: How the best rate follows the batch size: 1 is the linear rule, 0.5 the root.
        deviation: Standard deviation of the trials around the surface.
        trials: Number of trials that it rests on.
        coefficients: Levels, then a, b, c.
        inverse: Inverse of the normal equations, for the errors.
    """

    batch_sizes: tuple[int, ...]
    exponent: float
    deviation: float
    trials: int
    coefficients: Array
    inverse: Array

    def best_rate(self, batch_size: int) -> float:
        """The predicted best learning rate of a batch size."""
        a, b, c = self.coefficients[-3:]
        return float(2.0 ** (-(b + c * math.log2(batch_size)) / (2 * a)))

    def predict(self, batch_size: int, learning_rate: float) -> Predicted:
        """The predicted metric of one further training.

        Raises:
            InputError: A batch size that has no level.
        """
        if batch_size not in self.batch_sizes:
            raise InputError(
                f"`batch_size` must be a fitted one: {list(self.batch_sizes)}. "
                f"Received: {batch_size}."
            )
        row = _rows(np.array([batch_size]), np.array([learning_rate]), self.batch_sizes)[0]
        free = self.trials - len(self.coefficients)
        spread = self.deviation * math.sqrt(1 + float(row @ self.inverse @ row))
        return Predicted(float(row @ self.coefficients), quantile_of_t(free, level=0.95) * spread)

    def __str__(self) -> str:
        """For a note, e.g. "a parabola in log2(learning rate) ..."."""
        return (
            "a parabola in log2(learning rate) with a level for each batch size, through "
            f"{self.trials} trials; they lie {self.deviation:.2g} from it"
        )


def fit_surface(
    batch_sizes: npt.ArrayLike,
    learning_rates: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    direction: Direction,
) -> LearningRateSurface:
    """Fits the surface by least squares.

    Args:
        batch_sizes: [n] batch sizes of completed trials.
        learning_rates: [n] their peak learning rates.
        scores: [n] the metric at their end.
        direction: Whether a larger or a smaller metric is better.

    Raises:
        InputError: Different lengths, values that are not > 0, fewer than 2 batch sizes, too few
            trials near the best rates, or trials that show no best rate.
    """
    sizes = checked_array(batch_sizes, name="batch_sizes")
    rates = checked_array(learning_rates, name="learning_rates")
    values = np.asarray(scores, dtype=np.float64)
    check_same_length(batch_sizes=sizes, learning_rates=rates, scores=values)
    near = _near_the_best(sizes, rates, values, direction)
    sizes, rates, values = sizes[near], rates[near], values[near]
    distinct = tuple(int(size) for size in np.unique(sizes))
    unknowns = len(distinct) + 3
    if len(distinct) < 2 or len(values) < unknowns + FEWEST_FREE:
        raise InputError(
            f"A surface needs 2 batch sizes and {unknowns + FEWEST_FREE} trials within "
            f"{OCTAVES:g} octaves of their best rates. Received: {len(distinct)} and {len(values)}."
        )
    rows = _rows(sizes, rates, distinct)
    if np.linalg.matrix_rank(rows) < unknowns:
        raise InputError("The learning rates of the trials differ too little to fit a surface.")
    found: Array = np.linalg.lstsq(rows, values, rcond=None)[0].astype(np.float64)
    curvature = float(found[-3])
    if not (curvature < 0 if direction == "max" else curvature > 0):
        raise InputError("The trials show no best learning rate: the curvature has the wrong sign.")
    residuals = values - rows @ found
    deviation = math.sqrt(float(residuals @ residuals) / (len(values) - unknowns))
    return LearningRateSurface(
        batch_sizes=distinct,
        exponent=float(-found[-1] / (2 * curvature)),
        deviation=deviation,
        trials=len(values),
        coefficients=found,
        inverse=np.linalg.inv(rows.T @ rows).astype(np.float64),
    )


def _rows(sizes: Array, rates: Array, distinct: tuple[int, ...]) -> Array:
    for rate in rates:
        check_positive(learning_rate=float(rate))
    z = np.log2(rates)
    levels = (sizes[:, None] == np.array(distinct)).astype(np.float64)
    return np.column_stack([levels, z**2, z, z * np.log2(sizes)])


def _near_the_best(
    sizes: Array, rates: Array, values: Array, direction: Direction
) -> npt.NDArray[np.bool_]:
    near = np.zeros(len(sizes), dtype=bool)
    for size in np.unique(sizes):
        own = np.flatnonzero(sizes == size)
        order = values[own] if direction == "min" else -values[own]
        best = rates[own[int(order.argmin())]]
        near[own] = np.abs(np.log2(rates[own] / best)) <= OCTAVES
    return near
