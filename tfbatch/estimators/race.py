"""A race of configurations over fresh seeds: what is shown, who leaves, and when it is decided.

Arrays begin with an axis R of independent races, and scores are better where larger; see
tfbatch.estimators.seed_noise. The first configuration is the baseline.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tfbatch.estimators.error_budget import bounds
from tfbatch.estimators.seed_noise import SeedNoise, differences, seed_noise
from tfbatch.estimators.vectors import Array

SAME_COST = 0.05
"""Costs that differ by less than this share are the same: smaller differences are the machine's."""
PILOT = 3
"""The first seeds of each configuration give the noise that the band rests on."""
FIRST_EXIT = 3
"""Nobody leaves with fewer seeds."""
_LEAVES = 2.5
"""Standard errors that send a configuration out. Looser than what shows anything: who leaves
loses a chance, and nothing is claimed."""

Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


class Race:
    """Judges the scores of growing numbers of seeds, in this order.

    Nothing that was shown at a look is taken back: the error budget is spent for it.

    Attributes:
        better: Shown to be better than the baseline, [R, m].
        close: Shown to lie behind the best by no more than the band, [R, m].
        out: Left the race: too far behind, or not cheaper and not better by more than the band.
        band: Deficits up to this do not matter, [R]; NaN before the pilot.
        apart: Row less column, means of scores, [R, m, m]; larger is better.
        errors: Standard errors of that, [R, m, m].
        again: Whether the baseline has a second training for each seed.
        bounds: Standard errors that show a difference from the baseline, and from another one, at
            the last look that could show something, [R, 2]; NaN before it.

    Args:
        costs: What a training costs, [R, m]; or None where costs do not matter.
        shape: R and m.
        again: Whether the baseline has a second training for each seed.
        has_baseline: Whether the first configuration is what is in use now, and is kept unless
            something is shown. Otherwise the best mean leads.
        tolerance: The band; None for the deviation between seeds in the pilot.
        smallest_band: The least band, without a tolerance.
    """

    def __init__(
        self,
        costs: Array | None,
        *,
        shape: tuple[int, int],
        again: bool = False,
        has_baseline: bool = True,
        tolerance: float | None = None,
        smallest_band: float = 0.0,
    ):
        self.costs = costs
        self.better: Flags = np.zeros(shape, bool)
        self.close, self.out = self.better.copy(), self.better.copy()
        self.band = np.full(shape[0], np.nan if tolerance is None else tolerance)
        self.bounds = np.full((shape[0], 2), np.nan)
        self._noise: SeedNoise | None = None
        self.apart, self.errors = (np.zeros((*shape, shape[1])) for _ in range(2))
        self.again, self._has_baseline = again, has_baseline
        self._tolerance, self._smallest_band = tolerance, smallest_band
        self._races = np.arange(shape[0])
        self._own = np.eye(shape[1], dtype=bool)

    def judge(self, seeds: int, scores: Array, takes_part: Flags) -> None:
        """Takes note of the scores of the first so many seeds.

        Args:
            seeds: Their number.
            scores: Of all configurations [R, m, S], the baseline's second trainings included.
            takes_part: Who has been trained with as many seeds, [R, m]; nothing new is shown for
                the others, and where nobody takes part the race is over.
        """
        going = np.asarray(takes_part.any(1))
        self._noise = noise = seed_noise(scores)
        self.apart, self.errors = differences(scores, noise)
        if seeds <= PILOT and self._tolerance is None:
            deviation = np.sqrt(noise.pooled)
            known = np.where(np.isfinite(deviation), deviation, np.nan)
            self.band = np.asarray(np.fmax(known, self._smallest_band))
        if len(self._own) == 1:
            return
        self._look(seeds, takes_part)
        if seeds >= FIRST_EXIT:
            self.out |= self._leaves() & going[:, None]

    def _look(self, seeds: int, takes_part: Flags) -> None:
        found = bounds(len(self._own), seeds, again=self.again).get(seeds)
        if found is None:
            return
        self.bounds[takes_part.any(1)] = found.from_baseline, found.from_other
        if self._has_baseline:
            enough = found.from_baseline * self.errors[:, :, 0]
            better = self.better | ((self.apart[:, :, 0] > enough) & takes_part)
            better[:, 0] = False
            self.better = np.asarray(better)
        lower = lower_bounds(self.apart, self.errors, self.bounds, self._has_baseline)
        self.close |= (lower >= -self.band[:, None]) & takes_part

    @property
    def noise(self) -> SeedNoise:
        """The noise of the scores that were judged last.

        Raises:
            ValueError: None were.
        """
        if self._noise is None:
            raise ValueError("The race has judged no scores yet.")
        return self._noise

    def leader(self) -> Indices:
        """The best mean of those that are shown to be better than the baseline; else that, [R]."""
        return leading(self.noise.means, self.better, has_baseline=self._has_baseline)

    def recommended(self) -> Indices:
        """The cheapest of the leader and of those that are shown to be as good as any, [R]."""
        return recommended(
            self.noise.means, self.better, self.close, self.costs, has_baseline=self._has_baseline
        )

    def cheaper(self) -> Flags:
        """Who costs less than the recommended one, [R, m]."""
        if self.costs is None:
            return np.zeros(self.better.shape, bool)
        least = self.costs[self._races, self.recommended()]
        return np.asarray(self.costs < least[:, None] * (1 - SAME_COST))

    def undecided(self) -> Flags:
        """Who is cheaper than the recommended one, and may be as good, [R, m]."""
        found = self.cheaper() & ~self.close & ~self.out
        found &= self._behind() <= self.band[:, None]
        found[self._races, self.recommended()] = False
        return found

    def decided(self) -> Flags:
        """Whether further seeds are not needed, [R]."""
        if len(self._own) == 1:
            return np.zeros(len(self._races), bool)
        leader = self.leader()
        others = ~self.out
        others[self._races, leader] = False
        others[:, 0] &= not self._has_baseline  # it sets the mark and is no candidate
        settled = self.close[self._races, leader] | ~others.any(1)
        return settled & ~(self.undecided() & others).any(1)

    def _behind(self) -> Array:
        """How far each lies behind the best at least, as far as leaving goes, [R, m]."""
        gaps = np.where(self._own, -np.inf, -self.apart - _LEAVES * self.errors)
        return np.asarray(np.where(np.isnan(gaps), -np.inf, gaps).max(2))

    def _leaves(self) -> Flags:
        dearer = ~self.cheaper()
        behind = self._behind()
        leaves = (behind > self.band[:, None]) | (dearer & (behind > 0))
        if self._has_baseline:
            most = self.apart[:, :, 0] + _LEAVES * self.errors[:, :, 0]
            leaves |= dearer & (most <= self.band[:, None])
            leaves[:, 0] = False
        leaves[self._races, self.leader()] = False
        leaves[self._races, self.recommended()] = False
        return leaves


def lower_bounds(apart: Array, errors: Array, bounds: Array, has_baseline: bool) -> Array:
    """How far each lies above the best of the others at least, [R, m].

    Hsu (1984), "Constrained simultaneous confidence intervals for multiple comparisons with the
    best": each is compared with all others, at the bound for one that is the best.

    Args:
        apart: Row less column, [R, m, m].
        errors: Standard errors of that, [R, m, m].
        bounds: See `Race.bounds`.
        has_baseline: Whether the first configuration is a baseline.
    """
    configurations = apart.shape[1]
    each = np.repeat(bounds[:, 1:], configurations, axis=1)
    each[:, 0] = bounds[:, 0 if has_baseline else 1]
    own = np.eye(configurations, dtype=bool)
    with np.errstate(invalid="ignore"):  # NaN before any look
        lower = np.where(own, np.inf, apart - each[:, None, :] * errors).min(2)
    return np.where(np.isnan(lower), -np.inf, lower)


def leading(means: Array, better: Flags, *, has_baseline: bool) -> Indices:
    """See `Race.leader`; means and better [R, m]."""
    if not has_baseline:
        return np.asarray(means.argmax(1))
    best = np.where(better, means, -np.inf).argmax(1)
    return np.where(better.any(1), best, 0)


def recommended(
    means: Array, better: Flags, close: Flags, costs: Array | None, *, has_baseline: bool
) -> Indices:
    """See `Race.recommended`; all arrays [R, m].

    Of several that cost the same the leader is taken, then the baseline, then the best mean.
    """
    leader = leading(means, better, has_baseline=has_baseline)
    if costs is None:
        return leader
    races = np.arange(len(means))
    as_good = close.copy()
    as_good[races, leader] = True
    least = np.where(as_good, costs, np.inf).min(1)
    cheap = as_good & (costs <= least[:, None] * (1 + SAME_COST))
    best = np.where(cheap, means, -np.inf).argmax(1)
    if has_baseline:
        best = np.where(cheap[:, 0], 0, best)
    return np.where(cheap[races, leader], leader, best)
