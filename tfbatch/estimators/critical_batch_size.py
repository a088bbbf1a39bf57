"""The hyperbola of steps against batch size, and the critical batch size in it.

McCandlish et al. 2018 (arXiv 1812.06162): with the learning rate tuned at every batch size,

    steps(B) = min_steps * (1 + critical / B)
    examples(B) = min_examples * (1 + B / critical)        min_examples = min_steps * critical

so that (steps / min_steps - 1) * (examples / min_examples - 1) = 1. At the critical batch size a
run takes twice the fewest steps and twice the fewest examples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from tfbatch.errors import InputError
from tfbatch.estimators.first_hit import StepsToTarget
from tfbatch.estimators.interval import Interval, quantile_of_t
from tfbatch.estimators.vectors import Array, check_positive

FEWEST_SIZES = 3
FEWEST_REACHED = 4
LARGEST_CENSORED_SHARE = 0.2
WIDEST_RATIO = 4.0
_GRID = 97
_NEWTON_STEPS = 60


@dataclasses.dataclass(frozen=True)
class Hyperbola:
    """Steps to a target against the batch size.

    Attributes:
        min_steps: Steps that no batch size goes below.
        critical_batch_size: Where twice as many are needed. A fit looks between a hundredth of the
            smallest and a hundred times the largest measured size: at these ends it stands for
            "the steps do not fall" and "they do not level off".
    """

    min_steps: float
    critical_batch_size: float

    def __post_init__(self) -> None:
        check_positive(min_steps=self.min_steps, critical_batch_size=self.critical_batch_size)

    @property
    def min_examples(self) -> float:
        """Examples that no batch size goes below."""
        return self.min_steps * self.critical_batch_size

    def steps(self, batch_size: float) -> float:
        """Predicted steps to the target."""
        return self.min_steps * (1 + self.critical_batch_size / batch_size)

    def examples(self, batch_size: float) -> float:
        """Predicted examples to the target."""
        return self.min_examples * (1 + batch_size / self.critical_batch_size)


@dataclasses.dataclass(frozen=True)
class CriticalBatchSize:
    """A fitted hyperbola and how far to trust it.

    Attributes:
        hyperbola: The fit.
        interval: Profile-likelihood interval of the critical batch size; it begins at 0 where the
            steps are not shown to fall, and has no upper end where they are not shown to level off.
        deviation: Standard deviation of log(steps) between runs of the same batch size.
        runs: Number of runs.
        censored: How many of them fell short of the target.
        doubts: Why not to rely on it; empty if nothing is wrong.
    """

    hyperbola: Hyperbola
    interval: Interval
    deviation: float
    runs: int
    censored: int
    doubts: tuple[str, ...]

    def __str__(self) -> str:
        """For a table, e.g. "critical batch size 128 [96.5, 180]"."""
        doubts = f" (weak: {'; '.join(self.doubts)})" if self.doubts else ""
        return (
            f"critical batch size {self.hyperbola.critical_batch_size:.4g} {self.interval}{doubts}"
        )


def fit_critical_batch_size(
    runs: Sequence[StepsToTarget], *, level: float = 0.95
) -> CriticalBatchSize:
    """Fits log(steps) by maximum likelihood; a run that fell short counts as "above its steps".

    One that reached the target by its first evaluation counts as if it had taken the steps to it;
    where these are many, the fit is doubted.

    Errors are taken as normal in log(steps), of one deviation, and independent: pairs of seeds
    across batch sizes are not used. The interval holds every critical batch size whose profile
    likelihood is within n log(1 + t^2 / (n - 2)) of the best, which is the exact t interval's
    rule where nothing is censored and the curve is straight.

    Args:
        runs: Runs to the same target, with the learning rate tuned at each batch size.
        level: Coverage of the interval.

    Raises:
        InputError: Fewer than 3 batch sizes, or fewer than 4 runs that reached the target.
    """
    sizes = np.array([run.batch_size for run in runs], dtype=np.float64)
    steps = np.array([run.steps for run in runs], dtype=np.float64)
    reached = np.array([run.reached for run in runs], dtype=bool)
    distinct = len(set(sizes.tolist()))
    if distinct < FEWEST_SIZES or reached.sum() < FEWEST_REACHED:
        raise InputError(
            f"At least {FEWEST_SIZES} batch sizes and {FEWEST_REACHED} runs that reached the "
            f"target are needed. Received: {distinct} batch sizes, {int(reached.sum())} runs that "
            "reached it."
        )
    log_grid = np.linspace(math.log(sizes.min() / 100), math.log(sizes.max() * 100), _GRID)
    profile = _Profile(sizes, np.log(steps), reached)
    best, likelihood, log_min_steps, deviation = _maximum(profile, log_grid)
    t = quantile_of_t(float(reached.sum()) - 2, level=level)
    drop = 0.5 * len(runs) * math.log1p(t * t / (reached.sum() - 2))
    interval = _ends(profile, log_grid, likelihood - drop, best, level)
    censored = int((~reached).sum())
    return CriticalBatchSize(
        hyperbola=Hyperbola(math.exp(log_min_steps), math.exp(best)),
        interval=interval,
        deviation=deviation,
        runs=len(runs),
        censored=censored,
        doubts=tuple(_doubts(interval, runs)),
    )


@dataclasses.dataclass(frozen=True)
class _Profile:
    """The likelihood, maximized over min_steps and deviation, for a grid of critical sizes."""

    sizes: Array
    log_steps: Array
    reached: np.ndarray[tuple[int], np.dtype[np.bool_]]

    def __call__(self, log_critical: Array) -> tuple[Array, Array, Array]:
        """Log-likelihood, log(min_steps) and deviation, each [grid].

        Olsen's parameters (1978) 1 / deviation and mean / deviation make the censored likelihood
        concave; Newton's method solves all of the grid at once.
        """
        y = self.log_steps - np.log1p(np.exp(log_critical)[:, None] / self.sizes)
        seen, hidden = y[:, self.reached], y[:, ~self.reached]
        spread = np.maximum(seen.std(axis=1), 1e-9)
        gamma, delta = 1 / spread, seen.mean(axis=1) / spread
        if not hidden.shape[1]:
            return _likelihood(gamma, delta, seen, hidden), delta / gamma, 1 / gamma
        for _ in range(_NEWTON_STEPS):
            step_gamma, step_delta = _newton_step(gamma, delta, seen, hidden)
            size = np.minimum(1.0, 0.5 * gamma / np.maximum(np.abs(step_gamma), 1e-300))
            before = _likelihood(gamma, delta, seen, hidden)
            for _ in range(20):
                after = _likelihood(
                    gamma + size * step_gamma, delta + size * step_delta, seen, hidden
                )
                worse = after < before - 1e-12 * np.abs(before)
                if not worse.any():
                    break
                size = np.where(worse, size / 2, size)
            gamma, delta = gamma + size * step_gamma, delta + size * step_delta
            if np.abs(size * step_gamma / gamma).max() < 1e-10:
                break
        return _likelihood(gamma, delta, seen, hidden), delta / gamma, 1 / gamma


def _likelihood(gamma: Array, delta: Array, seen: Array, hidden: Array) -> Array:
    z, beyond = (gamma[:, None] * y - delta[:, None] for y in (seen, hidden))
    log_tail = special.log_ndtr(-beyond).sum(axis=1)
    total: Array = seen.shape[1] * np.log(gamma) - 0.5 * (z**2).sum(axis=1) + log_tail
    return total


def _newton_step(gamma: Array, delta: Array, seen: Array, hidden: Array) -> tuple[Array, Array]:
    z, beyond = (gamma[:, None] * y - delta[:, None] for y in (seen, hidden))
    log_density = -0.5 * beyond**2 - 0.5 * math.log(2 * math.pi)
    hazard = np.exp(log_density - special.log_ndtr(-beyond))
    curvature = hazard * (hazard - beyond)
    count = seen.shape[1]
    slope_gamma = count / gamma - (z * seen).sum(1) - (hazard * hidden).sum(1)
    slope_delta = z.sum(1) + hazard.sum(1)
    gg = count / gamma**2 + (seen**2).sum(1) + (curvature * hidden**2).sum(1)
    gd = -seen.sum(1) - (curvature * hidden).sum(1)
    dd = count + curvature.sum(1)
    determinant = gg * dd - gd**2
    return (
        (dd * slope_gamma - gd * slope_delta) / determinant,
        (gg * slope_delta - gd * slope_gamma) / determinant,
    )


def _maximum(profile: _Profile, grid: Array) -> tuple[float, float, float, float]:
    """Best log(critical), its likelihood, log(min_steps), and the deviation with n - 2."""
    for _ in range(6):
        likelihood, means, deviations = profile(grid)
        best = int(likelihood.argmax())
        found = grid[best], likelihood[best], means[best], deviations[best]
        near = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        grid = np.linspace(near[0], near[1], 21)
    count = profile.reached.sum()
    return (
        float(found[0]),
        float(found[1]),
        float(found[2]),
        float(found[3] * math.sqrt(count / (count - 2))),
    )


def _ends(profile: _Profile, grid: Array, bar: float, best: float, level: float) -> Interval:
    """The outermost grid points above the bar, each end then found by bisection."""
    above = profile(grid)[0] >= bar
    inside = np.append(grid[above], best)

    def end(inner: float, step: float) -> float:
        outer = inner + step
        for _ in range(30):
            middle = (inner + outer) / 2
            if profile(np.array([middle]))[0][0] >= bar:
                inner = middle
            else:
                outer = middle
        return math.exp(inner)

    width = grid[1] - grid[0]
    low = 0.0 if above[0] else end(float(inside.min()), -width)
    high = math.inf if above[-1] else end(float(inside.max()), width)
    return Interval(low, high, level)


def _doubts(interval: Interval, runs: Sequence[StepsToTarget]) -> list[str]:
    censored_share = sum(not run.reached for run in runs) / len(runs)
    bounds = sum(run.at_first for run in runs) / len(runs)
    doubts = []
    if not math.isfinite(interval.high):
        doubts.append("the steps are not shown to level off: measure larger batch sizes")
    if interval.low <= 0:
        doubts.append("the steps are not shown to fall: measure smaller batch sizes")
    if interval.bounded and 0 < interval.low * WIDEST_RATIO < interval.high:
        doubts.append(f"the ends of the interval differ by more than {WIDEST_RATIO:g} times")
    if censored_share > LARGEST_CENSORED_SHARE:
        doubts.append(f"{censored_share:.0%} of the runs fell short of the target")
    if bounds > LARGEST_CENSORED_SHARE:
        doubts.append(f"{bounds:.0%} of the runs reached the target by their first evaluation")
    return doubts
