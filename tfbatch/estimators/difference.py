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
import numpy.typing as npt

from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval, quantile_of_t
from tfbatch.estimators.seed_noise import seed_noise
from tfbatch.metric_direction import Direction

MOST_SEEDS = 80
"""More seeds than this are not proposed."""
FEWEST_PAIRS = 4
"""With fewer shared seeds a paired t test has too few degrees of freedom to be of use."""
_ROUNDING = 1e-12
"""Standard deviations below this multiple of the scores are rounding errors of equal scores."""

Verdict = Literal["first", "second", "as good", "undecided"]


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first configuration against the second.

    Attributes:
        gain: How far the first mean lies above the second, positive where better; of pairs, over
            the shared seeds alone.
        interval: Of the gain; without end where nothing is known of the noise.
        band: Differences up to this do not matter.
        deviation: Standard deviation of one training of each: its own, or of one seed what is
            assumed; infinite where nothing is known.
        seeds: Number of seeds of each.
        shared: Number of seeds that both have.
        pairs: Number of seeds that were compared in pairs; 0 where the two means were compared.
        seeds_to_decide: Number of seeds for each that is expected to give a verdict; None
            where there is one, where more than 80 would be needed, or where nothing is known.
    """

    gain: float
    interval: Interval
    band: float
    deviation: tuple[float, float]
    seeds: tuple[int, int]
    shared: int
    pairs: int
    seeds_to_decide: int | None

    @property
    def verdict(self) -> Verdict:
        """Which one is better; "as good" where the whole interval lies within the band."""
        return _verdict(self.interval, self.band)

    @property
    def without_spread(self) -> bool:
        """Whether no seed changed anything, so that the interval is a point."""
        return self.interval.low == self.interval.high


@dataclasses.dataclass(frozen=True)
class _Error:
    """Of a gain: its standard error, and the quantile of t that it is multiplied with."""

    size: float
    quantile: float

    @property
    def half_width(self) -> float:
        return 0.0 if self.size == 0 else self.size * self.quantile


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

    With four shared seeds and more it is the paired t test over these, else Welch's (1947)
    comparison of the two means by each one's own variance. Welch's interval is too narrow where
    one variance is of two seeds and the other of more: the quantile is then that of Cochran & Cox
    (1950), those of both weighted by what each adds to the variance. The number of seeds alone
    chooses, not the scores. Of a configuration with one seed the noise is assumed to be that of
    those with more (tfbatch.estimators.seed_noise). Coverage: benchmarks/results/compare.md.

    Args:
        first: Scores by seed, at least one.
        second: Likewise.
        direction: Whether a larger or a smaller score is better.
        band: Differences up to this do not matter.
        others: Scores of further configurations of the same data, which tell of the noise where
            one of both has one seed.
        level: Coverage of the interval.

    Raises:
        InputError: No scores, a score that is not finite, a band that is negative, or a level that
            is not between 0 and 1.
    """
    _check([first, second, *others], band=band, level=level)
    sign = -1.0 if direction == "min" else 1.0
    shared = sorted(first.keys() & second.keys())
    variances, freedom = _noise(first, second, others)
    counts = (len(first), len(second))
    in_pairs = len(shared) >= FEWEST_PAIRS
    apart = np.array([first[seed] - second[seed] for seed in shared])
    most = max(abs(score) for one in (first, second) for score in one.values())
    # What further pairs would tell; of two pairs nothing is known of it.
    one_pair = _variance(apart, most) if len(shared) > 2 else sum(variances)
    if in_pairs:
        gain = sign * float(apart.mean())
        error = _of_pairs(one_pair, len(shared), level)
    else:
        gain = sign * float(np.mean(list(first.values())) - np.mean(list(second.values())))
        error = _of_means(variances, freedom, counts, level)
    interval = Interval(gain - error.half_width, gain + error.half_width, level)
    more = None
    if _verdict(interval, band) == "undecided" and math.isfinite(error.size):
        wanted = max(abs(gain), band - abs(gain))
        paired = len(shared) > 1 or counts == (1, 1)
        more = _seeds_to_decide(wanted, variances, one_pair, counts, level=level, paired=paired)
    return Difference(
        gain=gain,
        interval=interval,
        band=band,
        deviation=(math.sqrt(variances[0]), math.sqrt(variances[1])),
        seeds=counts,
        shared=len(shared),
        pairs=len(shared) if in_pairs else 0,
        seeds_to_decide=more,
    )


def _variance(scores: npt.NDArray[np.float64], scale: float) -> float:
    """Of one training, from two scores or more; 0 where scores differ by rounding alone."""
    deviation = float(scores.std(ddof=1))
    return deviation**2 if deviation > _ROUNDING * scale else 0.0


def _noise(
    first: Mapping[int, float], second: Mapping[int, float], others: Sequence[Mapping[int, float]]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Variances of one training of both, and their degrees of freedom; infinite and 0: unknown."""
    known = []
    for one in (first, second):
        scores = np.array(list(one.values()))
        if len(scores) > 1:
            known.append((_variance(scores, float(abs(scores).max())), len(scores) - 1.0))
        else:
            known.append(_assumed([one, *(o for o in (first, second, *others) if o is not one)]))
    return (known[0][0], known[1][0]), (known[0][1], known[1][1])


def _assumed(rows: Sequence[Mapping[int, float]]) -> tuple[float, float]:
    """The variance of the first row, of one seed, by the others, and its degrees of freedom."""
    seeds = sorted({seed for one in rows for seed in one})
    noise = seed_noise(np.array([[[one.get(seed, math.nan) for seed in seeds] for one in rows]]))
    variance = float(noise.variances[0, 0])
    if not math.isfinite(variance):
        return math.inf, 0.0
    scale = max(abs(score) for one in rows for score in one.values())
    variance = variance if math.sqrt(variance) > _ROUNDING * scale else 0.0
    return variance, float(noise.freedom[0, 0])


def _of_pairs(variance: float, pairs: int, level: float) -> _Error:
    return _Error(math.sqrt(variance / pairs), quantile_of_t(pairs - 1, level=level))


def _of_means(
    variances: tuple[float, float],
    freedom: tuple[float, float],
    counts: tuple[int, int],
    level: float,
) -> _Error:
    parts = (variances[0] / counts[0], variances[1] / counts[1])
    total = sum(parts)
    if total == 0 or not math.isfinite(total):
        return _Error(total, math.inf)
    if min(counts) == 2 < max(counts):
        quantiles = [quantile_of_t(one, level=level) for one in freedom]
        quantile = sum(p * q for p, q in zip(parts, quantiles, strict=True)) / total
        return _Error(math.sqrt(total), quantile)
    known = total**2 / sum(p**2 / f for p, f in zip(parts, freedom, strict=True))
    if 1 in counts:  # what is assumed of one is known by the other as well
        known = min(known, *(f for f, n in zip(freedom, counts, strict=True) if n == 1))
    return _Error(math.sqrt(total), quantile_of_t(known, level=level))


def _verdict(interval: Interval, band: float) -> Verdict:
    if -band <= interval.low and interval.high <= band:
        return "as good"
    if interval.low > 0:
        return "first"
    return "second" if interval.high < 0 else "undecided"


def _seeds_to_decide(
    wanted: float,
    variances: tuple[float, float],
    one_pair: float,
    counts: tuple[int, int],
    *,
    level: float,
    paired: bool,
) -> int | None:
    """The fewest seeds for each at which the gain, if it stays as it is, would be decided.

    Args:
        wanted: Half of the interval must be below this.
        variances: Of one training of each.
        one_pair: That of the difference of one pair.
        counts: Seeds of each now.
        level: Coverage of the interval.
        paired: Whether further seeds are shared ones.
    """
    for seeds in range(max(min(counts) + 1, 2), MOST_SEEDS + 1):
        if paired and seeds >= FEWEST_PAIRS:
            error = _of_pairs(one_pair, seeds, level)
        else:
            error = _of_means(variances, (seeds - 1.0,) * 2, (seeds, seeds), level)
        if error.half_width < wanted:
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
