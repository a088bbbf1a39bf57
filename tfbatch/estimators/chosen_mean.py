"""The mean of a configuration that was chosen for its mean, freed of the choice."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from tfbatch.estimators.race import Indices, Race, as_good, leading, recommended
from tfbatch.estimators.seed_noise import widening
from tfbatch.estimators.vectors import Array

_TAIL = 0.0125
"""The estimated correction has an error of its own: with 2.5 % intervals would cover too seldom."""
_SAMPLES = 400
_AT_ONCE = 50_000
_LEAST = 1e-60
"""No error is taken to be smaller: before a look all are 0, and weights must stay finite."""


@dataclasses.dataclass(frozen=True)
class ChosenMean:
    """Arrays [R], for the recommended configuration of each race.

    Attributes:
        mean: Its mean score less what the choice adds to it.
        half_width: Half width of the 95 % interval of that mean; infinite before the first look.
    """

    mean: Array
    half_width: Array


def chosen_mean(race: Race, *, has_baseline: bool = True) -> ChosenMean:
    """Corrects for the choice by a parametric bootstrap of its last look.

    Who is chosen is above its own mean on average. How far is simulated with the rule itself, at
    estimated means: the baseline's as measured, the others' shrunk towards their common mean by
    as much as chance spreads them (an empirical Bayes estimate as by Efron and Morris, 1973), since
    among equal ones the choice adds most. The simulation has a fixed seed.

    Args:
        race: After its last seeds.
        has_baseline: As of the race.
    """
    noise = race.noise
    races = np.arange(len(noise.means))
    chosen = race.recommended()
    looked = ~np.isnan(race.bounds[:, 0])
    spread = np.sqrt(
        noise.variances * (1 - noise.correlation[:, None]) / np.maximum(noise.counts, 1)
    )
    spread = np.where(looked[:, None], spread, 0.0)  # nothing was chosen yet
    centers = _shrunk(noise.means, spread, first=1 if has_baseline else 0)
    half = np.random.default_rng(0).normal(size=(_SAMPLES // 2, 1, noise.means.shape[1]))
    samples = np.concatenate([half, -half])  # else their own mean is added where nothing is chosen
    added = np.zeros(len(races))
    for part in np.array_split(samples, max(1, _SAMPLES * len(races) // _AT_ONCE)):
        errors = (part * spread).reshape(-1, noise.means.shape[1])
        taken = _chosen_of(race, centers, errors, has_baseline=has_baseline)
        of_taken = np.take_along_axis(errors, taken[:, None], axis=1)
        added += of_taken.reshape(-1, len(races)).sum(0) / _SAMPLES
    quantile = stats.norm.isf(_TAIL)
    error = np.sqrt(noise.variances / np.maximum(noise.counts, 1))[races, chosen]
    widened = error * widening(noise.freedom[races, chosen], _TAIL) * quantile
    return ChosenMean(
        mean=noise.means[races, chosen] - added,
        half_width=np.where(looked | (noise.means.shape[1] == 1), widened, np.inf),
    )


def _chosen_of(race: Race, centers: Array, errors: Array, *, has_baseline: bool) -> Indices:
    """Who would be recommended, with these errors of the means [samples * R, m]."""
    samples = len(errors) // len(centers)

    def repeated(array: Array) -> Array:
        return np.tile(array, (samples, *[1] * (array.ndim - 1)))

    means = repeated(centers) + errors
    apart = means[:, :, None] - means[:, None, :]
    standard, bounds = repeated(race.errors), repeated(race.bounds)
    better = apart[:, :, 0] > bounds[:, :1] * standard[:, :, 0]
    better &= has_baseline
    better[:, 0] = False
    stands = np.ones_like(better)  # who has left was chosen among, too
    leader = leading(means, better, stands, has_baseline=has_baseline)
    return recommended(
        means,
        better,
        as_good(apart, standard, leader, bounds[:, 1], repeated(race.band)),
        stands,
        None if race.costs is None else repeated(race.costs),
        has_baseline=has_baseline,
    )


def _shrunk(means: Array, errors: Array, *, first: int) -> Array:
    """The means from one index on, towards their weighted mean."""
    several = means[:, first:]
    if not several.shape[1]:
        return means
    weights = 1 / np.maximum(errors[:, first:] ** 2, _LEAST)
    center = (several * weights).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
    spread = ((several - center) ** 2 * weights).sum(1, keepdims=True)
    freedom = several.shape[1] - 1
    kept = np.clip(1 - freedom / np.maximum(spread, np.finfo(float).tiny), 0.0, 1.0)
    return np.concatenate([means[:, :first], center + kept * (several - center)], axis=1)
