"""The best constant prediction under any loss, and how much luck can add to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import optimize

from tfbatch.estimators.chance_level import DEVIATIONS

Array = npt.NDArray[np.float64]
LossOfConstant = Callable[[Array], tuple[float, Array]]
"""Of a constant [size]: the mean loss, and the slopes [examples, size], whose mean is its gradient.

An example's slope is what the mean loss gains per unit of the example's own prediction, times the
number of examples.
"""
_STARTS = (0.0, 1.0)
_ITERATIONS = 100
_STEPS = 10


def best_constant(loss: LossOfConstant, size: int) -> Array | None:
    """The constant of least mean loss; None where it has no minimum, or no finite value.

    L-BFGS from two starts, since a rectified output has no slope on one side. At a kink (absolute
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


def _with_gradient(loss: LossOfConstant, constant: Array) -> tuple[float, Array]:
    value, slopes = loss(constant)
    return (value, slopes.mean(axis=0)) if math.isfinite(value) else (1e300, 0 * constant)


def _falls_forever(loss: LossOfConstant, constant: Array, value: float) -> bool:
    """Whether the loss goes on falling far away in proportion, as a linear one does."""
    far, _ = loss(constant * 1e3)
    return far < value - max(1.0, abs(value))


def gain_by_luck(
    loss: LossOfConstant, constant: Array, *, blocks: Sequence[slice] = (), examples: int = 0
) -> float:
    """The most that predictions that ignore the inputs gain over a constant by chance.

    Predictions at a distance s from the constant, up or down at random along a direction, cost a
    mean of `(loss(c + s) + loss(c - s)) / 2 - loss(c)`, and gain by luck so many deviations of the
    mean of their slopes, whose sign is random:

        def gain(s):
            slopes = (slopes_at(c + s) + slopes_at(c - s)) / 2
            return DEVIATIONS * s * sqrt(sum(slopes**2)) / examples - cost(s)

    With curvature H this is at most DEVIATIONS**2 * mean(slopes**2) / (2 * H * examples). The
    distance is found by stepping to the best one for the curvature found at the last. The
    directions are those in which the slopes vary most, over all values and over each block.

    Args:
        loss: The mean loss and the slopes.
        constant: The best constant.
        blocks: The values of each output, where there are several.
        examples: Number of examples that the loss is a mean over in the end; 0 for as many as
            there are slopes.
    """
    value, slopes = loss(constant)
    count = len(slopes)
    number = examples or count
    most = 0.0
    for block in {(s.start, s.stop) for s in (slice(0, len(constant)), *blocks)}:
        direction = _widest(slopes, slice(*block))
        distance = 0.01 * max(1.0, float(np.abs(constant).max()))
        for _ in range(_STEPS):
            up, slopes_up = loss(constant + distance * direction)
            down, slopes_down = loss(constant - distance * direction)
            cost = (up + down) / 2 - value
            along = (slopes_up + slopes_down) @ direction / 2
            luck = DEVIATIONS * math.sqrt(float(np.mean(along**2)) / number)
            if not math.isfinite(cost + luck) or luck == 0:
                break
            most = max(most, distance * luck - cost)
            curvature = 2 * cost / distance**2
            farther = 4 * distance if curvature <= 0 else luck / curvature
            if abs(farther - distance) < 0.01 * distance:
                break
            distance = min(farther, 16 * distance)
    return most


def _widest(slopes: Array, block: slice) -> Array:
    """The direction in which a block of the slopes varies most, by power iteration."""
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
