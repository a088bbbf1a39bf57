"""How far trainings differ by their seed alone, and what that leaves of their differences.

Every array begins with an axis R of independent races, so that a simulation of thousands costs
what one costs; a run has R = 1. The scores of m configurations are an array [R, m, S] with
a column for each seed. NaN stands for a training that was not made. Larger is better.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import stats

from tfbatch.estimators.vectors import Array

PRIOR_FREEDOM = 8
"""How many degrees of freedom the pooled variance is worth beside a configuration's own."""
DISAGREES = 0.005
"""A variance that the others would exceed with less than this probability is not pooled."""
_TAIL = 0.004
"""Errors are stated so that this tail, about where decisions fall, is that of a normal one."""
_FEW_PAIRS = 4
_MOST_FREEDOM = 500


@dataclasses.dataclass(frozen=True)
class SeedNoise:
    """The noise of some configurations.

    Attributes:
        counts: Seeds of each configuration, [R, m].
        means: Mean scores, [R, m].
        variances: Moderated variances of one training, [R, m]; infinite with one seed each.
        freedom: Effective degrees of freedom of each variance, [R, m].
        pooled: Variance of a training, pooled over the configurations that agree, [R].
        correlation: What seeds have in common at least, as a correlation, [R].
    """

    counts: Array
    means: Array
    variances: Array
    freedom: Array
    pooled: Array
    correlation: Array


def seed_noise(scores: Array) -> SeedNoise:
    """Estimates the noise of configurations, each by its own seeds and by those that agree.

    A variance of two to five seeds is a poor estimate, and pooling all would let one unstable
    configuration widen every interval. So variances are moderated as by Smyth (2004), "Linear
    Models and Empirical Bayes Methods", equation 3, with a fixed prior:
    (8 pooled + df own) / (8 + df), and never below the own one. Pooled are those that an F test
    against all others does not reject (0.5 %), at most half of them left out.

    Args:
        scores: [R, m, S]; see the module.
    """
    there = ~np.isnan(scores)
    counts = there.sum(-1)
    means = np.where(there, scores, 0.0).sum(-1) / np.maximum(counts, 1)
    deviations = np.where(there, scores - means[..., None], 0.0)
    squares = (deviations**2).sum(-1)
    freedom = np.maximum(counts - 1, 0)
    own = squares / np.maximum(freedom, 1)
    agree = _agreeing(squares, freedom)
    pooled_freedom = (freedom * agree).sum(-1)
    pooled = (squares * agree).sum(-1) / np.maximum(pooled_freedom, 1)
    moderated = (PRIOR_FREEDOM * pooled[:, None] + squares) / (PRIOR_FREEDOM + freedom)
    share = freedom / (PRIOR_FREEDOM + freedom)
    relative = share**2 / np.maximum(freedom, 1)
    relative += (1 - share) ** 2 / np.maximum(pooled_freedom, 1)[:, None]
    known = (pooled_freedom > 0)[:, None]
    return SeedNoise(
        counts=counts,
        means=means,
        variances=np.where(known, np.maximum(moderated, own), np.inf),
        freedom=np.where(agree, 1 / relative, freedom),
        pooled=np.where(known[:, 0], pooled, np.inf),
        correlation=_correlation(deviations, there, np.where(agree, pooled[:, None], own)),
    )


def _agreeing(squares: Array, freedom: Array) -> Array:
    """Which variances are pooled, [R, m]: one after the other the most outlying is left out."""
    agree = np.ones(squares.shape, bool)
    races = np.arange(len(squares))
    for _ in range((squares.shape[1] - 1) // 2):
        other_squares = (squares * agree).sum(-1, keepdims=True) - squares
        other_freedom = np.maximum((freedom * agree).sum(-1, keepdims=True) - freedom, 0)
        own = squares / np.maximum(freedom, 1)
        others = other_squares / np.maximum(other_freedom, 1)
        with np.errstate(over="ignore"):  # the others do not differ at all
            ratios = np.where(agree, own / np.maximum(others, np.finfo(float).tiny), 0.0)
        most = ratios.argmax(-1)
        limits = _f_limits()[
            np.minimum(freedom[races, most], _MOST_FREEDOM // 10),
            np.minimum(other_freedom[races, most], _MOST_FREEDOM),
        ]
        outlying = ratios[races, most] > limits
        agree[races[outlying], most[outlying]] = False
    return agree


@functools.cache
def _f_limits() -> Array:
    """Upper quantiles of F by both degrees of freedom; infinite where one is 0."""
    one, other = np.arange(1, _MOST_FREEDOM // 10 + 1), np.arange(1, _MOST_FREEDOM + 1)
    limits = np.full((len(one) + 1, len(other) + 1), np.inf)
    limits[1:, 1:] = stats.f.isf(DISAGREES, one[:, None], other)
    return limits


def _correlation(deviations: Array, there: Array, variances: Array) -> Array:
    """Pooled over all pairs and seeds, less a standard error: what is sure of it.

    That of a correlation r is about (1 - r^2) / sqrt(n); of few pairs even r is not known, and the
    factor is nearer to 1.
    """
    scale = np.sqrt(np.maximum(variances, np.finfo(float).tiny))
    standard = deviations / scale[..., None]
    products = ((standard.sum(1) ** 2 - (standard**2).sum(1)) / 2).sum(-1)
    together = there.sum(1)
    seeds = np.maximum((together > 1).sum(-1), 1)
    pairs = (together * (together - 1) / 2).sum(-1) * (1 - 1 / seeds)
    safe = np.maximum(pairs, 0.5)
    found = np.clip(products / safe, 0.0, 0.99)
    known = np.maximum(1 - _FEW_PAIRS / safe, 0.0)
    sure = found - (1 - known * found**2) / np.sqrt(safe)
    return np.where(pairs > 0, np.maximum(sure, 0.0), 0.0)


def differences(scores: Array, noise: SeedNoise) -> tuple[Array, Array]:
    """Every configuration less every other one, and the error of that.

    The difference is that of the means over all seeds, or over the seeds that both have, whichever
    is known better: the second where seeds have much in common.

    Args:
        scores: [R, m, S]; see the module.
        noise: Their noise.

    Returns:
        Differences [R, m, m], row less column, and their standard errors [R, m, m], widened for
        few degrees of freedom (Welch-Satterthwaite) so that they can be used as normal ones.
    """
    there = (~np.isnan(scores)).astype(float)
    filled = np.where(there > 0, scores, 0.0)
    both = np.einsum("ris,rjs->rij", there, there)
    counts = np.maximum(noise.counts, 1e-9)
    one, other = noise.variances[:, :, None], noise.variances[:, None, :]
    with np.errstate(invalid="ignore"):  # infinite less infinite: nothing is known
        common = noise.correlation[:, None, None] * np.sqrt(one * other)
        of_all = one / counts[:, :, None] + other / counts[:, None, :]
        of_all = of_all - 2 * common * both / (counts[:, :, None] * counts[:, None, :])
        of_both = (one + other - 2 * common) / np.maximum(both, 1e-9)
        parts = noise.variances / counts
        each = parts**2 / np.maximum(noise.freedom, 1)
        sums = parts[:, :, None] + parts[:, None, :]
        freedom = sums**2 / np.maximum(each[:, :, None] + each[:, None, :], np.finfo(float).tiny)
    sums_over_both = np.einsum("ris,rjs->rij", filled, there)
    paired = (sums_over_both - sums_over_both.transpose(0, 2, 1)) / np.maximum(both, 1)
    use = (of_both < of_all) & (both > 0)
    unpaired = noise.means[:, :, None] - noise.means[:, None, :]
    variance = np.where(use, of_both, of_all)
    errors = np.sqrt(np.where(np.isnan(variance), np.inf, np.maximum(variance, 0.0)))
    return np.where(use, paired, unpaired), errors * widening(freedom)


def widening(freedom: Array, tail: float = _TAIL) -> Array:
    """Quantile of the t distribution as a multiple of the normal one."""
    halves = np.nan_to_num(2 * freedom, nan=2.0, posinf=_MOST_FREEDOM, neginf=2.0)
    return np.asarray(_t_over_normal(tail)[np.clip(halves, 2, _MOST_FREEDOM).astype(int)])


@functools.cache
def _t_over_normal(tail: float) -> Array:
    """By twice the degrees of freedom."""
    halves = np.arange(2, _MOST_FREEDOM + 1) / 2
    return np.concatenate([[np.inf] * 2, stats.t.isf(tail, halves) / stats.norm.isf(tail)])
