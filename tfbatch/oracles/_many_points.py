"""A Gaussian process for thousands of trials: fitted to a few of them, chosen anew each time.

KerasTuner fits to all of them, 21 times for a proposal, in time of the third power of their number,
and looks 50 times for the lowest bound, one point after the other: with a few hundred trials a
proposal takes longer than many a trial.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

Array = npt.NDArray[np.float64]

MOST_POINTS = 128
"""Trials up to which KerasTuner's own way is taken; and of more, those that are fitted to."""
_MOST_OPEN = 64
_CANDIDATES = 1000
_POLISHED = 3
_LENGTHS = np.geomspace(0.05, 20.0, 16)


class Points(NamedTuple):
    """Trials that have ended.

    Attributes:
        places: float64 [trials, d] in [0, 1].
        values: float64 [trials]; small is good, infinite stands for the worst that there is.
    """

    places: Array
    values: Array


def lowest_bound(
    ended: Points,
    running: Array,
    starts: Array,
    *,
    alpha: float,
    beta: float,
    seed: tuple[int, int],
) -> Array:
    """Where the mean minus `beta` deviations is lowest, as far as it is found.

    It follows from its arguments alone: no fit of an earlier proposal is used, so that a resumed
    search proposes the same.

    Args:
        ended: Trials that have ended, at least one of finite value.
        running: float64 [trials, d] of trials that run: they count as no better than a deviation
            above what is expected of them, so that they are not proposed again. Of many, those
            count that look best.
        starts: float64 [n, d], points to look at among others.
        alpha: Variance of the noise in values of unit variance.
        beta: What uncertainty is worth.
        seed: Of the points that are looked at.

    Returns:
        float64 [d] in [0, 1].
    """
    finite = ended.values[np.isfinite(ended.values)]
    values = np.where(np.isfinite(ended.values), ended.values, finite.max())
    chosen = spread_over_ranks(values, MOST_POINTS)
    places, values = ended.places[chosen], values[chosen]
    process = _fitted(places, values, _likeliest_length(places, values, alpha), alpha)
    if len(running):
        mean, deviation = process.predict(running, return_std=True)
        best = np.argsort(mean - beta * deviation, kind="stable")[:_MOST_OPEN]
        guessed = np.concatenate([values, mean[best] + deviation[best]])
        # With the same length: of values that are guessed nothing is learned.
        length = process.kernel_.length_scale
        process = _fitted(np.vstack([places, running[best]]), guessed, length, alpha)

    def bound(points: Array) -> Array:
        mean, deviation = process.predict(points, return_std=True)
        found: Array = mean - beta * deviation
        return found

    dimensions = starts.shape[1]
    more = np.random.default_rng(seed).uniform(size=(_CANDIDATES, dimensions))
    candidates = np.vstack([starts, more])
    best = candidates[np.argsort(bound(candidates), kind="stable")[:_POLISHED]]
    polished = [
        minimize(
            lambda point: bound(point.reshape(1, -1))[0],
            x0=one,
            bounds=[(0.0, 1.0)] * dimensions,
            method="L-BFGS-B",
        )
        for one in best
    ]
    found: Array = min(polished, key=lambda result: float(result.fun)).x
    return found


def _fitted(places: Array, values: Array, length: float, alpha: float) -> GaussianProcessRegressor:
    kernel = Matern(length_scale=length, nu=2.5)
    process = GaussianProcessRegressor(kernel, alpha=alpha, normalize_y=True, optimizer=None)
    return process.fit(places, values)


def _likeliest_length(places: Array, values: Array, alpha: float) -> float:
    """The length over which values are alike; looked for on a grid.

    A gradient from one start can end at a length of nothing, where every value is noise, and
    KerasTuner's 20 starts are what takes its time.
    """
    process = _fitted(places, values, 1.0, alpha)
    likelihoods = [process.log_marginal_likelihood(np.log([length])) for length in _LENGTHS]
    return float(_LENGTHS[int(np.argmax(likelihoods))])


def spread_over_ranks(values: Array, count: int) -> npt.NDArray[np.int64]:
    """Which points to keep: half of them the best, half of them spread over the ranks of the rest.

    The best say where the optimum is. Without the others, what is far from it would look unknown,
    and be tried again.

    Args:
        values: float64 [n], small is good.
        count: How many are kept at most.

    Returns:
        Their indices, ascending.
    """
    order = np.argsort(values, kind="stable")
    if len(values) <= count:
        return np.sort(order)
    best = count // 2
    rest = np.linspace(best, len(values) - 1, count - best).round().astype(np.int64)
    return np.sort(order[np.concatenate([np.arange(best), rest])])
