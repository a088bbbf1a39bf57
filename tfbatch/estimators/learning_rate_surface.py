"""A metric against batch size and learning rate: one quadratic surface over both logarithms.

    value(B, rate) = c0 + c1 b + c2 u + c3 u**2 + c4 b u + c5 b**2          (small is good)
    b = log2(B) - mean,  u = log2(rate) - mean

The best rate of a batch size is where the slope in u vanishes, so that it is a power of the batch
size, as in every scaling rule that is one: its exponent is -c4 / (2 c3). Six unknowns, whatever the
number of batch sizes: a search gives most sizes two trials or three, which cannot carry a level of
their own. Quadratic surfaces around an optimum: Box and Wilson 1951, "On the experimental
attainment of optimum conditions".

Two things keep what is far from the best from deciding. The value is the logarithm of a loss, or
the logit of an error where scores are shares: there a training that learned nothing is some units
away, and not a hundred deviations. And a trial's doubt grows with its distance from the best,

    doubt = 1 + distance / (2 * median distance)

by which it is divided: near the best a square is a good form, far away it is none.

How often the intervals hold: benchmarks/results/fixed_rate.md.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from tfbatch.errors import InputError
from tfbatch.estimators.interval import quantile_of_t
from tfbatch.estimators.vectors import Array, check_positive, check_same_length, checked_array
from tfbatch.metric_direction import Direction

UNKNOWNS = 6
FEWEST_FREE = 3
"""Trials beyond the unknowns, so that an error can be told."""
_MEDIANS = 2.0
"""The doubt is doubled at so many median distances from the best."""
_LARGEST_EXPONENT = 700.0

Scale = Literal["logarithm", "logit", "none"]


@dataclasses.dataclass(frozen=True)
class Predicted:
    """A PREDICTION, no measurement.

    Attributes:
        mean: The predicted metric.
        low: Lower end of its 95 % interval, for one further training.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2


@dataclasses.dataclass(frozen=True)
class LearningRateSurface:
    """The fitted surface.

    Attributes:
        batch_sizes: Those of the trials, ascending: what it can predict without extrapolation.
        exponent: How the best rate follows the batch size: 1 is the linear rule, 0.5 the root.
        deviation: Standard deviation of trials near the best around the surface, on its scale.
        trials: Number of trials that it rests on.
        scale: What the surface is of.
        direction: Whether a larger or a smaller metric is better.
        coefficients: c0 to c5.
        inverse: Inverse of the weighted normal equations, for the errors.
        center: Means of log2(B) and log2(rate).
        best: The best trial, on the scale.
        median: Median distance of the trials from it.
    """

    batch_sizes: tuple[int, ...]
    exponent: float
    deviation: float
    trials: int
    scale: Scale
    direction: Direction
    coefficients: Array
    inverse: Array
    center: tuple[float, float]
    best: float
    median: float

    def best_rate(self, batch_size: int) -> float:
        """The predicted best learning rate of a batch size."""
        _, _, c2, c3, c4, _ = self.coefficients
        b = math.log2(batch_size) - self.center[0]
        return float(2.0 ** (self.center[1] - (c2 + c4 * b) / (2 * c3)))

    def predict(self, batch_size: int, learning_rate: float) -> Predicted:
        """The predicted metric of one further training.

        Raises:
            InputError: A batch size that no trial had, or a rate that is not > 0.
        """
        if batch_size not in self.batch_sizes:
            raise InputError(
                f"`batch_size` must be a fitted one: {list(self.batch_sizes)}. "
                f"Received: {batch_size}."
            )
        check_positive(learning_rate=learning_rate)
        row = _rows(np.array([batch_size]), np.array([learning_rate]), self.center)[0]
        value = float(row @ self.coefficients)
        doubt = _doubt(np.array([value]), self.best, self.median)[0]
        spread = self.deviation * math.sqrt(float(doubt**2 + row @ self.inverse @ row))
        half = quantile_of_t(self.trials - UNKNOWNS, level=0.95) * spread
        ends = [_score(v, self.scale, self.direction) for v in (value - half, value + half)]
        return Predicted(_score(value, self.scale, self.direction), min(ends), max(ends))

    def __str__(self) -> str:
        """For a note, e.g. "a quadratic surface over log2(batch size) and log2(rate) ..."."""
        return (
            "a quadratic surface over the logarithms of batch size and learning rate, fitted to "
            f"{self.trials} trials"
        )


def fit_surface(
    batch_sizes: npt.ArrayLike,
    learning_rates: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    direction: Direction,
) -> LearningRateSurface:
    """Fits the surface by weighted least squares.

    Args:
        batch_sizes: [n] batch sizes of completed trials.
        learning_rates: [n] their peak learning rates.
        scores: [n] the metric at their end.
        direction: Whether a larger or a smaller metric is better.

    Raises:
        InputError: Different lengths, values that are not > 0, a score that is not finite, fewer
            than 3 batch sizes, too few trials, trials that differ too little, or trials that show
            no best rate.
    """
    sizes = checked_array(batch_sizes, name="batch_sizes")
    rates = checked_array(learning_rates, name="learning_rates")
    measured = checked_array(scores, name="scores", positive=False)
    check_same_length(batch_sizes=sizes, learning_rates=rates, scores=measured)
    distinct = tuple(int(size) for size in np.unique(sizes))
    if len(distinct) < 3 or len(measured) < UNKNOWNS + FEWEST_FREE:
        raise InputError(
            f"A surface needs 3 batch sizes and {UNKNOWNS + FEWEST_FREE} trials. Received: "
            f"{len(distinct)} and {len(measured)}."
        )
    scale = _scale_of(measured, direction)
    values = _values(measured, scale, direction)
    best, median = float(values.min()), float(np.median(values - values.min()))
    center = float(np.log2(sizes).mean()), float(np.log2(rates).mean())
    rows = _rows(sizes, rates, center)
    if median == 0 or np.linalg.matrix_rank(rows) < UNKNOWNS:
        raise InputError("The trials differ too little to fit a surface.")
    weights = 1 / _doubt(values, best, median)
    weighted: Array = rows * weights[:, None]
    found: Array = np.linalg.lstsq(weighted, values * weights, rcond=None)[0].astype(np.float64)
    if found[3] <= 0:
        raise InputError("The trials show no best learning rate: the curvature has the wrong sign.")
    residuals = values * weights - weighted @ found
    return LearningRateSurface(
        batch_sizes=distinct,
        exponent=float(-found[4] / (2 * found[3])),
        deviation=math.sqrt(float(residuals @ residuals) / (len(values) - UNKNOWNS)),
        trials=len(values),
        scale=scale,
        direction=direction,
        coefficients=found,
        inverse=np.linalg.inv(weighted.T @ weighted).astype(np.float64),
        center=center,
        best=best,
        median=median,
    )


def _rows(sizes: Array, rates: Array, center: tuple[float, float]) -> Array:
    b, u = np.log2(sizes) - center[0], np.log2(rates) - center[1]
    return np.column_stack([np.ones_like(b), b, u, u**2, b * u, b**2]).astype(np.float64)


def _doubt(values: Array, best: float, median: float) -> Array:
    away = np.maximum(values - best, 0.0)
    return np.asarray(1 + away / (_MEDIANS * median), dtype=np.float64)


def _scale_of(scores: Array, direction: Direction) -> Scale:
    """Shares are those of what is right; a loss is positive; of all else nothing is known."""
    if direction == "max":
        return "logit" if scores.min() > 0 and scores.max() < 1 else "none"
    return "logarithm" if scores.min() > 0 else "none"


def _values(scores: Array, scale: Scale, direction: Direction) -> Array:
    """Scores on the scale, small is good."""
    if scale == "logit":
        return np.asarray(np.log((1 - scores) / scores), dtype=np.float64)
    if scale == "logarithm":
        return np.asarray(np.log(scores), dtype=np.float64)
    return -scores if direction == "max" else scores


def _score(value: float, scale: Scale, direction: Direction) -> float:
    """The inverse of `_values`; infinite where a loss is beyond all numbers."""
    if scale == "logit":
        return 0.5 * (1 - math.tanh(value / 2))
    if scale == "logarithm":
        return math.exp(value) if value < _LARGEST_EXPONENT else math.inf
    return -value if direction == "max" else value
