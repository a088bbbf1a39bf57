"""The best constant prediction under any loss, and how much luck can add to it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from tfbatch.estimators.chance_level import DEVIATIONS

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Losses:
    """What a constant prediction costs.

    Attributes:
        mean: The mean loss.
        slopes: [examples, size] what the mean loss gains per unit of an example's own prediction,
            times the number of examples: the mean of the rows is the gradient.
        each: [examples] the loss of each example, whose mean is `mean`; None where it is unknown.
    """

    mean: float
    slopes: Array
    each: Array | None = None


LossOfConstant = Callable[[Array], Losses]
"""The losses of a constant [size] for all examples."""
_STARTS = (0.0, 1.0, 0.5)
"""A rectifier has no slope at 0; Keras clips probabilities, and has none at 0 and at 1."""
_ITERATIONS = 100
_LEAST_COST = 1e-6
"""In deviations. Luck as large as a smaller cost takes more than 1e12 examples."""
_DOUBLINGS = 200
_FARTHER = (4.0, 16.0, 64.0)
"""Multiples of a constant: the minimum of a saturated output lies at infinity."""
_DISTANCES = np.concatenate([sign * np.geomspace(2**-8, 2**4, 9) for sign in (1, -1)])
_MOST_DIRECTIONS = 8
_FEWEST_CHANGED = 4
"""Of fewer changed examples the luck is that of single outliers."""


def best_constant(loss: LossOfConstant, size: int) -> Array | None:
    """The constant of least mean loss; None where it has no minimum, or no finite value.

    L-BFGS from three starts, since a clipped output has no slope outside its range. At a kink (absolute
    errors, hinges) it may end a little above the minimum: a weaker reference, never one that calls
    a model that learned unlearned.

    Args:
        loss: The mean loss and the slopes.
        size: Number of values of the constant.
    """
    found = []
    for start in _STARTS:
        with np.errstate(all="ignore"):
            result = optimize.minimize(
                lambda constant: _with_gradient(loss, constant),
                np.full(size, start),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": _ITERATIONS},
            )
        if math.isfinite(result.fun) and np.isfinite(result.x).all():
            found.append(result)
    if not found:
        return None
    best = min(found, key=lambda result: float(result.fun))
    constant: Array = np.asarray(best.x, np.float64)
    return None if _falls_forever(loss, constant, float(best.fun)) else constant


def least_loss(loss: LossOfConstant, constant: Array) -> float:
    """The loss of the best constant, or what it comes to far out where outputs saturate."""
    values = [loss(constant * factor).mean for factor in (1.0, *_FARTHER)]
    return min((value for value in values if math.isfinite(value)), default=math.nan)


def _with_gradient(loss: LossOfConstant, constant: Array) -> tuple[float, Array]:
    found = loss(constant)
    if not math.isfinite(found.mean):
        return 1e300, 0 * constant
    return found.mean, found.slopes.mean(axis=0)


def _falls_forever(loss: LossOfConstant, constant: Array, value: float) -> bool:
    """Whether the loss goes on falling far away in proportion, as a linear one does."""
    return loss(1e3 * constant).mean < value - max(1.0, abs(value))


def gain_by_luck(
    loss: LossOfConstant, constant: Array, *, blocks: Sequence[slice] = (), examples: int = 0
) -> float:
    """The most that predictions that ignore the inputs gain over a constant by chance.

    Such a model gives k examples, in effect drawn at random, another prediction, which changes the
    loss of each by d, on average for the worse. By luck of `DEVIATIONS` the sum of k draws gains at
    most (Chernoff's bound; for a normal d it is the quantile of that many deviations)

        def gain(k, rate):
            return (k * log(mean(exp(-rate * d))) + DEVIATIONS**2 / 2) / rate

    for every rate. At the one where mean(exp(-rate * d)) is 1 (Lundberg's exponent) it depends on k
    no more: that is the largest gain over all k, DEVIATIONS**2 / (2 * rate). It has the closed
    forms of tfbatch.estimators.chance_level: the rate is 1 for a cross-entropy, 2 mean(d) / var(d)
    for a squared error of normal targets. The largest over a grid of other predictions is taken:
    along those directions in which the slopes vary most (over all values, and over each block), and
    along each of a few values.

    Args:
        loss: The losses and slopes.
        constant: The best constant.
        blocks: The values of each output, where there are several.
        examples: Number of examples that the loss is a mean over in the end; 0 for as many as
            there are slopes.
    """
    at = loss(constant)
    number = examples or len(at.slopes)
    size = len(constant)
    directions = [_widest(at.slopes, block) for block in {*map(_ends, blocks), (0, size)}]
    if 1 < size <= _MOST_DIRECTIONS:
        directions += list(np.eye(size))
    scale = max(1.0, float(np.abs(constant).max()))
    most = 0.0
    for direction in directions:
        for distance in scale * _DISTANCES:
            change = distance * direction
            found = loss(constant + change)
            gain, changed = _gain(_differences(at, found, change))
            if _FEWEST_CHANGED <= changed <= number:
                most = max(most, gain / number)
    return most


def _gain(differences: Array) -> tuple[float, float]:
    """The largest sum that is gained by luck, and the number of examples that it takes."""
    cost, spread = float(differences.mean()), float(differences.std())
    if not math.isfinite(cost + spread) or cost <= _LEAST_COST * spread or differences.min() >= 0:
        return 0.0, 0.0

    def growth(rate: float) -> float:
        return float(special.logsumexp(-rate * differences) - math.log(len(differences)))

    high = 2 * (cost / spread) / spread
    low = high / 2
    for _ in range(_DOUBLINGS):
        if growth(high) > 0:
            break
        high *= 2
    for _ in range(_DOUBLINGS):
        if growth(low) < 0:
            break
        low /= 2
    if not growth(low) < 0 < growth(high) < math.inf:
        return 0.0, 0.0
    rate = float(optimize.brentq(growth, low, high, rtol=1e-3))
    tilted = np.exp(-rate * differences)
    gained = -float((tilted * differences).sum() / tilted.sum())
    return DEVIATIONS**2 / (2 * rate), DEVIATIONS**2 / (2 * rate * gained)


def _ends(block: slice) -> tuple[int, int]:
    return block.start, block.stop


def _differences(at: Losses, other: Losses, change: Array) -> Array:
    """What each example's loss differs by; by the slopes at both ends where it is unknown."""
    if at.each is not None and other.each is not None:
        known: Array = other.each - at.each
        return known
    between: Array = (at.slopes + other.slopes) @ change / 2
    shifted: Array = between - between.mean() + other.mean - at.mean
    return shifted


def _widest(slopes: Array, ends: tuple[int, int]) -> Array:
    """The direction in which a block of the slopes varies most, by power iteration."""
    block = slice(*ends)
    part = slopes[:, block]
    direction = np.sqrt((part**2).mean(axis=0)) * np.where(np.arange(part.shape[1]) % 2, -1, 1)
    for _ in range(30):
        longer = part.T @ (part @ direction)
        length = float(np.linalg.norm(longer))
        if length == 0:
            break
        direction = longer / length
    whole = np.zeros(slopes.shape[1])
    norm = float(np.linalg.norm(direction))
    whole[block] = direction / norm if norm else direction
    return whole
