"""Whether two configurations differ by more than the noise between seeds, and what would decide it.

One comparison, decided upon before its scores were seen. The choice of a search compares many
configurations at every look, and its intervals are wider: tfbatch.estimators.race.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval, quantile_of_t
from tfbatch.estimators.seed_noise import SeedNoise, plain_differences, seed_noise
from tfbatch.metric_direction import Direction

MOST_SEEDS = 80
"""More seeds than this are not proposed."""

Verdict = Literal["first", "second", "as good", "undecided"]


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first configuration against the second.

    Attributes:
        gain: How far the first mean lies above the second, positive where better.
        interval: Of the gain; without end where nothing is known of the noise.
        band: Differences up to this do not matter.
        deviation: Standard deviation of one training of each; infinite where not known.
        correlation: What is sure of what shared seeds have in common, as a correlation.
        seeds: Number of seeds of each.
        shared: Number of seeds that both have.
        seeds_to_decide: Number of shared seeds for each that is expected to give a verdict; None
            where there is one, where more than 80 would be needed, or where nothing is known.
    """

    gain: float
    interval: Interval
    band: float
    deviation: tuple[float, float]
    correlation: float
    seeds: tuple[int, int]
    shared: int
    seeds_to_decide: int | None

    @property
    def verdict(self) -> Verdict:
        """Which one is better; "as good" where the whole interval lies within the band."""
        return _verdict(self.interval, self.band)


def difference(
    first: Mapping[int, float],
    second: Mapping[int, float],
    *,
    direction: Direction,
    band: float = 0.0,
    others: Sequence[Mapping[int, float]] = (),
    level: float = 0.95,
) -> Difference:
    """Compares the scores of two configurations.

    The noise is that of tfbatch.estimators.seed_noise: each configuration's own, moderated by what
    it shares with those that agree; seeds that both have are paired as far as their scores are
    shown to have something in common (else Welch's comparison of two means).

    Args:
        first: Scores by seed, at least one.
        second: Likewise.
        direction: Whether a larger or a smaller score is better.
        band: Differences up to this do not matter.
        others: Scores of further configurations of the same data, which tell of the noise.
        level: Coverage of the interval.

    Raises:
        InputError: No scores, a score that is not finite, a band that is negative, or a level that
            is not between 0 and 1.
    """
    _check([first, second, *others], band=band, level=level)
    sign = -1.0 if direction == "min" else 1.0
    seeds = sorted({seed for one in (first, second, *others) for seed in one})
    rows = [first, second, *others]
    scores = np.array([[[sign * one.get(seed, math.nan) for seed in seeds] for one in rows]])
    noise = seed_noise(scores)
    gains, errors, freedom = plain_differences(scores, noise)
    # Two variances that were pooled with one another are not known twice as well.
    known = min(float(freedom[0, 0, 1]), sum(len(one) - 1 for one in rows))
    gain = float(gains[0, 0, 1])
    half = quantile_of_t(known, level=level) * float(errors[0, 0, 1])
    interval = Interval(gain - half, gain + half, level)
    more = None
    if _verdict(interval, band) == "undecided":
        more = _seeds_to_decide(noise, gain, band, known=known, level=level)
    return Difference(
        gain=gain,
        interval=interval,
        band=band,
        deviation=(_deviation(noise, 0), _deviation(noise, 1)),
        correlation=float(noise.correlation[0]),
        seeds=(len(first), len(second)),
        shared=len(set(first) & set(second)),
        seeds_to_decide=more,
    )


def _verdict(interval: Interval, band: float) -> Verdict:
    if -band <= interval.low and interval.high <= band:
        return "as good"
    if interval.low > 0:
        return "first"
    return "second" if interval.high < 0 else "undecided"


def _deviation(noise: SeedNoise, row: int) -> float:
    return math.sqrt(float(noise.variances[0, row]))


def _seeds_to_decide(
    noise: SeedNoise, gain: float, band: float, *, known: float, level: float
) -> int | None:
    """The fewest shared seeds at which the gain, if it stays as it is, would be decided."""
    one, other = _deviation(noise, 0), _deviation(noise, 1)
    wanted = max(abs(gain), band - abs(gain))
    if not math.isfinite(one + other) or wanted <= 0:
        return None
    now = int(max(noise.counts[0, :2]))
    variance = one**2 + other**2 - 2 * float(noise.correlation[0]) * one * other
    for seeds in range(max(now + 1, 2), MOST_SEEDS + 1):
        freedom = known + 2 * (seeds - now)
        if quantile_of_t(freedom, level=level) * math.sqrt(variance / seeds) < wanted:
            return seeds
    return None


def _check(rows: Sequence[Mapping[int, float]], *, band: float, level: float) -> None:
    if not rows[0] or not rows[1]:
        raise InputError("Both configurations need scores, at least of one seed. Received: none.")
    values = [score for one in rows for score in one.values()]
    if not all(map(math.isfinite, values)):
        raise InputError(f"Every score must be finite. Received: {values}.")
    if not (math.isfinite(band) and band >= 0):
        raise InputError(f"`band` must be >= 0. Received: {band}.")
    if not 0 < level < 1:
        raise InputError(f"`level` must be > 0 and < 1. Received: {level}.")
