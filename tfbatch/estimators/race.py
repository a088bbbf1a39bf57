"""A race of configurations over fresh seeds: what is shown, who leaves, and when it is decided.

Arrays begin with an axis R of independent races, and scores are better where larger; see
tfbatch.estimators.seed_noise. The first configuration is the baseline.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from tfbatch.estimators.error_budget import LOOKS, bounds
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
_BEHIND_BEST = 0.0
"""Standard errors by which one that is as good as the leader may seem farther than the band behind
any other one."""

EVEN = 0.5
"""A look that decides with this probability or more is named, and none after it."""

Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


class Outlook(NamedTuple):
    """When what is undecided will be decided, as far as the scores so far can tell.

    Attributes:
        seeds: The first look to come that decides with a probability of at least one half; else
            the last of all, [R, m]. NaN before a first look, and where none is to come.
        probability: That it does, likewise.
    """

    seeds: Array
    probability: Array


class Race:
    """Judges the scores of growing numbers of seeds, in this order.

    Nothing that was shown at a look is taken back: the error budget is spent for it.

    Attributes:
        better: Shown to be better than the baseline, [R, m].
        close: Costs less than the leader, and shown to lie behind it by no more than the band,
            [R, m].
        out: Left the race: too far behind, or not cheaper and not better by more than the band.
        band: Deficits up to this do not matter, [R]; NaN before the pilot.
        apart: Row less column, means of all scores, [R, m, m]; larger is better.
        errors: Standard errors of that, [R, m, m].
        again: Whether the baseline has a second training for each seed.
        bounds: Standard errors that show a gain, and that show one to be as good, at the last look
            that could show something, [R, 2]; NaN before it.
        shown: Row less column at the last look in which both took part, [R, m, m].
        shown_widths: How far that may be wrong, for all and at every look, [R, m, m]; infinite
            before a look, 0 on the diagonal.
        gains: Each less the baseline, at its last look; or at an earlier one that has shown it to
            be better, where the last one would not, [R, m].
        gain_widths: How far that may be wrong, [R, m]; likewise.
        looked: Seeds at the last look of each, [R, m]; 0 before one.

    Args:
        costs: What a training costs, [R, m]; or None where costs do not matter.
        shape: R and m.
        again: Whether the baseline has a second training for each seed.
        has_baseline: Whether the first configuration is what is in use now, and is kept unless
            something is shown. Otherwise the best mean leads.
        tolerance: The band; None for the deviation between seeds in the pilot.
        smallest_band: The least band, without a tolerance.
        least_deviation: No deviation between seeds is taken to be smaller.
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
        least_deviation: float = 0.0,
    ):
        self.costs = costs
        self.better: Flags = np.zeros(shape, bool)
        self.close, self.out = self.better.copy(), self.better.copy()
        self.band = np.full(shape[0], np.nan if tolerance is None else tolerance)
        self.bounds = np.full((shape[0], 2), np.nan)
        self.looked = np.zeros(shape, int)
        self._noise: SeedNoise | None = None
        self._own = np.eye(shape[1], dtype=bool)
        self.apart, self.errors, self.shown = (np.zeros((*shape, shape[1])) for _ in range(3))
        self.shown_widths = np.where(self._own, 0.0, np.full((*shape, shape[1]), np.inf))
        self.gains, self.gain_widths = self.shown[:, :, 0], self.shown_widths[:, :, 0]
        self.again, self._has_baseline = again, has_baseline
        self._tolerance, self._smallest_band = tolerance, smallest_band
        self._least_variance = least_deviation**2
        self._races = np.arange(shape[0])

    def judge(self, seeds: int, scores: Array, takes_part: Flags) -> None:
        """Takes note of the scores of the first so many seeds.

        Args:
            seeds: Their number.
            scores: Of all configurations [R, m, S], the baseline's second trainings included.
            takes_part: Who has been trained with as many seeds, [R, m]; nothing new is shown for
                the others, nor for anybody where the baseline is among them. Where nobody takes
                part the race is over.
        """
        going = np.asarray(takes_part.any(1))
        noise = seed_noise(scores)
        least = np.maximum(noise.variances, self._least_variance)
        self._noise = noise = dataclasses.replace(noise, variances=least)
        self.apart, self.errors = differences(scores, noise)
        unseen = np.isinf(self.shown_widths)
        self.shown = np.where(unseen, self.apart, self.shown)
        self.gains = np.where(unseen[:, :, 0], self.apart[:, :, 0], self.gains)
        if seeds <= PILOT and self._tolerance is None:
            deviation = np.sqrt(noise.pooled)
            known = np.where(np.isfinite(deviation) & (seeds > 1), deviation, np.nan)
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
        if self._has_baseline:  # in a round that was stopped half-way it may be missing
            takes_part = takes_part & takes_part[:, :1]
        going = takes_part.any(1)
        self.bounds[going, 0] = found.better
        if self._has_baseline:
            enough = found.better * self.errors[:, :, 0]
            better = self.better | ((self.apart[:, :, 0] > enough) & takes_part)
            better[:, 0] = False
            self.better = np.asarray(better)
        cheaper = self._cheaper_than(self.leader())
        self.bounds[going, 1] = self._as_good_bounds(seeds, cheaper)[going]
        pairs = takes_part[:, :, None] & takes_part[:, None, :] & ~self._own
        of_as_good = cheaper[:, :, None] | cheaper[:, None, :]
        each = np.where(of_as_good, self.bounds[:, 1, None, None], found.better)
        self.shown = np.where(pairs, self.apart, self.shown)
        with np.errstate(invalid="ignore"):  # without any noise: infinite times 0
            each = np.where(np.isinf(each), np.inf, each * self.errors)
        self.shown_widths = np.where(pairs, each, self.shown_widths)
        gains, widths = self.apart[:, :, 0], found.better * self.errors[:, :, 0]
        told = pairs[:, :, 0] & ~(self.better & (gains <= widths))
        self.gains = np.where(told, gains, self.gains)
        self.gain_widths = np.where(told, widths, self.gain_widths)
        self.looked = np.where(takes_part, seeds, self.looked)
        # Before the pilot is whole, and with it the band, the bound is infinite.
        leader = self.leader()
        close = as_good(self.apart, self.errors, leader, self.bounds[:, 1], self.band)
        self.close |= close & cheaper & takes_part & takes_part[self._races, leader][:, None]

    def _as_good_bounds(self, seeds: int, cheaper: Flags) -> Array:
        """For as many as cost less than the leader: the others make no claim to be as good, [R]."""
        known = [
            bounds(max(count, 1) + 1, seeds, again=self.again)[seeds].as_good
            for count in range(len(self._own))
        ]
        return np.asarray(np.array(known)[cheaper.sum(1)])

    @property
    def noise(self) -> SeedNoise:
        """The noise of the scores that were judged last.

        Raises:
            ValueError: None were.
        """
        if self._noise is None:
            raise ValueError("The race has judged no scores yet.")
        return self._noise

    def stands(self) -> Flags:
        """Who may be recommended, [R, m]: nobody who has left, nor anybody before a first look.

        Means are over the seeds that each has. Who has left would come back by hard seeds of the
        others, and who has just come may have had an easy one.
        """
        if self._has_baseline:  # then nobody leads who is not shown to be better, at a look
            return ~self.out
        return ~self.out & ((self.looked > 0) | ~(self.looked > 0).any(1, keepdims=True))

    def leader(self) -> Indices:
        """The best mean of those that are shown to be better than the baseline; else that, [R].

        Without a baseline it is the best mean of all that stand.
        """
        return leading(
            self.noise.means, self.better, self.stands(), has_baseline=self._has_baseline
        )

    def recommended(self) -> Indices:
        """The cheapest of the leader and of those that are shown to be as good as it, [R]."""
        return recommended(
            self.noise.means,
            self.better,
            self.close,
            self.stands(),
            self.costs,
            has_baseline=self._has_baseline,
        )

    def cheaper(self) -> Flags:
        """Who costs less than the recommended one, [R, m]."""
        return self._cheaper_than(self.recommended())

    def _cheaper_than(self, one: Indices) -> Flags:
        if self.costs is None:
            return np.zeros(self.better.shape, bool)
        least = self.costs[self._races, one]
        return np.asarray(self.costs < least[:, None] * (1 - SAME_COST))

    def undecided(self) -> Flags:
        """Who is cheaper than the recommended one, and may be as good as the leader, [R, m]."""
        found = self._candidates() & self.cheaper() & ~self.close
        return np.asarray(found & (self._behind() <= self.band[:, None]))

    def may_be_better(self) -> Flags:
        """Who may lie above the leader by more than the band, [R, m]."""
        leader = self.leader()
        apart = self.apart[self._races, :, leader]
        bounds = np.where(np.isnan(self.bounds[:, :1]), np.inf, self.bounds[:, :1])
        with np.errstate(invalid="ignore"):  # infinite less nothing
            most = apart + bounds * self.errors[self._races, :, leader]
        return np.asarray(self._candidates() & ~(most <= self.band[:, None]))

    def decided(self) -> Flags:
        """Whether further seeds are not needed, [R]: nothing that they would decide is left."""
        if len(self._own) == 1:
            return np.zeros(len(self._races), bool)
        return np.asarray(~(self.undecided() | self.may_be_better()).any(1))

    def outlook_for_as_good(self) -> Outlook:
        """Which look to come decides who is as good: shows it, or sends it out as too far behind.

        See `likely_to_show`.
        """
        leader = self.leader()
        errors = self.errors[self._races, :, leader]
        above_edge = self.band[:, None] + self.apart[self._races, :, leader]
        of_look = [
            self._as_good_bounds(look, self._cheaper_than(leader))[:, None] for look in LOOKS
        ]
        return self._outlook(errors, of_look, above_edge, -above_edge)

    def outlook_for_better(self) -> Outlook:
        """Likewise of who is better than the baseline."""
        gains = self.apart[:, :, 0]
        known = bounds(len(self._own), max(LOOKS), again=self.again)
        of_look = [np.full((len(gains), 1), known[look].better) for look in LOOKS]
        return self._outlook(self.errors[:, :, 0], of_look, gains, self.band[:, None] - gains)

    def _outlook(
        self, errors: Array, of_look: list[Array], shown: Array, refuted: Array
    ) -> Outlook:
        """The first look to come that as likely as not shows either gap; else the last of all."""
        now = self.noise.counts.copy()
        now[:, 0] = now[:, 1:].max(1, initial=1)  # the baseline's second trainings are no rounds
        seeds, probability = np.full(now.shape, np.nan), np.full(now.shape, np.nan)
        for look, bound in reversed(list(zip(LOOKS, of_look, strict=True))):
            decides = likely_to_show(shown, errors, now / look, bound)
            decides += likely_to_show(refuted, errors, now / look, _LEAVES)
            told = (look > now) & (self.looked > 0) & ((look == LOOKS[-1]) | (decides >= EVEN))
            seeds = np.where(told, look, seeds)
            probability = np.where(told, decides, probability)
        return Outlook(seeds, np.minimum(probability, 1.0))

    def _candidates(self) -> Flags:
        """Who is still in the race and is neither the baseline nor leads nor is recommended."""
        found = ~self.out
        found[self._races, self.leader()] = False
        found[self._races, self.recommended()] = False
        found[:, 0] &= not self._has_baseline  # it sets the mark
        return found

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


def as_good(apart: Array, errors: Array, leader: Indices, bounds: Array, band: Array) -> Flags:
    """Who is shown to lie behind the leader by no more than the band, [R, m].

    What may be better than the leader but is not shown to be so cannot be asked for more: of
    equal ones with three seeds nothing is shown to be as good as all the others. But nobody is as
    good that seems to lie farther behind another one.

    Args:
        apart: Row less column, [R, m, m].
        errors: Standard errors of that, [R, m, m].
        leader: See `Race.leader`.
        bounds: Standard errors that show one to be as good, [R].
        band: Deficits up to this do not matter, [R].
    """
    races = np.arange(len(apart))
    with np.errstate(invalid="ignore"):  # NaN or infinite before any look
        lower = apart[races, :, leader] - bounds[:, None] * errors[races, :, leader]
        seems = (apart + _BEHIND_BEST * errors).min(2)
        return np.asarray((lower >= -band[:, None]) & (seems >= -band[:, None]))


def likely_to_show(gaps: Array, errors: Array, share: Array, bound: Array | float) -> Array:
    """The probability that more seeds will show a gap to be more than 0: the predictive power.

    Of gaps of which nothing is known but the scores (Spiegelhalter, Freedman and Blackburn, 1986,
    doi:10.1016/0197-2456(86)90003-6):

        error_then = error * sqrt(share)
        spread = error * sqrt(1 - share)  # of the gap that will be measured then
        probability = normal_cdf((gap - bound * error_then) / spread)

    Were what is measured expected to stay, a gap at an edge would never be decided, and of few
    seeds every other equal configuration would seem hopeless.

    Args:
        gaps: Measured.
        errors: Their standard errors.
        share: Of the seeds then, those that there are now.
        bound: Standard errors that show it then.
    """
    share = np.minimum(share, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):  # without any noise, or a look's bound
        beyond = gaps - np.where(np.isinf(bound), np.inf, bound * errors * np.sqrt(share))
        scaled = beyond / (errors * np.sqrt(1 - share))
    at_once = np.where(beyond >= 0, np.inf, -np.inf)
    return np.asarray(special.ndtr(np.where(np.isnan(scaled), at_once, scaled)))


def leading(means: Array, better: Flags, stands: Flags, *, has_baseline: bool) -> Indices:
    """See `Race.leader`; all arrays [R, m]."""
    if not has_baseline:
        return np.asarray(np.where(stands, means, -np.inf).argmax(1))
    may_lead = better & stands
    best = np.where(may_lead, means, -np.inf).argmax(1)
    return np.where(may_lead.any(1), best, 0)


def recommended(
    means: Array,
    better: Flags,
    close: Flags,
    stands: Flags,
    costs: Array | None,
    *,
    has_baseline: bool,
) -> Indices:
    """See `Race.recommended`; all arrays [R, m].

    Of several that cost the same the leader is taken, then the baseline, then the best mean.
    """
    leader = leading(means, better, stands, has_baseline=has_baseline)
    if costs is None:
        return leader
    races = np.arange(len(means))
    as_good = close & stands
    as_good[races, leader] = True
    least = np.where(as_good, costs, np.inf).min(1)
    cheap = as_good & (costs <= least[:, None] * (1 + SAME_COST))
    best = np.where(cheap, means, -np.inf).argmax(1)
    if has_baseline:
        best = np.where(cheap[:, 0], 0, best)
    return np.where(cheap[races, leader], leader, best)
