"""Which of the verified configurations to recommend, and what the scores show.

What is in use now is kept unless something is shown to be better, or shown to be as good and
cheaper. The design of the race and its error rates: docs/design/answer.md.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from tfbatch.errors import InputError
from tfbatch.estimators.chosen_mean import ChosenMean, chosen_mean
from tfbatch.estimators.error_budget import SPENT, bounds
from tfbatch.estimators.race import Race
from tfbatch.metric_direction import Direction, Goal


@dataclasses.dataclass(frozen=True)
class Verified:
    """One configuration, trained with fresh seeds.

    Attributes:
        key: What it is called.
        scores: The objective by round; the same rounds have the same seed.
        seconds: Training seconds by round.
        batch_size: Examples in one update, for the goal "memory".
        again: The objective of its second trainings by round, with seeds of their own: of the
            incumbent only.
    """

    key: str
    scores: Mapping[int, float]
    seconds: Mapping[int, float]
    batch_size: int = 0
    again: Mapping[int, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One configuration against the best mean and against the incumbent.

    The intervals hold for all configurations and looks together; they are infinite before the
    first look, with one seed.

    Attributes:
        key: What it is called.
        seeds: Number of its fresh seeds.
        mean: Mean objective.
        deficit: How far its mean lies behind the best (never negative).
        half_width: Half width of the deficit's interval; 0 for the best mean itself.
        gain: How far its mean lies above the incumbent's, positive where better; NaN without one.
        gain_half_width: Half width of the gain's interval.
        better: Shown to be better than the incumbent.
        tied: Shown to lie behind the best by no more than the band.
        out: Left the race.
        seconds: Median training seconds.
    """

    key: str
    seeds: int
    mean: float
    deficit: float
    half_width: float
    gain: float
    gain_half_width: float
    better: bool
    tied: bool
    out: bool
    seconds: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What to expect of the recommended configuration, freed of its having been chosen.

    Attributes:
        mean: Mean objective.
        half_width: Half width of its 95 % interval; infinite where there is no noise estimate.
        gain: How far it lies above the incumbent, positive where better; NaN without one.
        gain_half_width: Half width of the gain's 95 % interval.
    """

    mean: float
    half_width: float
    gain: float
    gain_half_width: float


@dataclasses.dataclass(frozen=True)
class Undecided:
    """A configuration that more seeds would decide about.

    Attributes:
        key: What it is called.
        question: "as good", of one that is cheaper than the recommended one; or "better", of one
            whose mean is above the incumbent's.
        seeds: At which number of seeds a look is expected to decide; None if at none of them.
    """

    key: str
    question: Literal["as good", "better"]
    seeds: int | None


@dataclasses.dataclass(frozen=True)
class Choice:
    """The recommendation and what it rests on.

    Attributes:
        recommended: Its key.
        best: Key of the configuration with the best mean.
        margin: The band: deficits up to this do not matter.
        noise: Pooled standard deviation between seeds; NaN with one seed.
        comparisons: Every configuration, best mean first.
        estimate: What to expect of the recommended one.
        undecided: What more seeds would decide.
        decided: Whether further seeds are not needed.
    """

    recommended: str
    best: str
    margin: float
    noise: float
    comparisons: tuple[Comparison, ...]
    estimate: Estimate
    undecided: tuple[Undecided, ...]
    decided: bool

    @property
    def out(self) -> frozenset[str]:
        """Keys of those that left the race."""
        return frozenset(one.key for one in self.comparisons if one.out)


def choose(
    verified: Sequence[Verified],
    *,
    direction: Direction,
    smallest_margin: float,
    incumbent: str | None = None,
    tolerance: float | None = None,
    goal: Goal = "time",
) -> Choice:
    """Replays the race of some configurations over their fresh seeds.

    Args:
        verified: At least one configuration, each with the first rounds, at least one; who has
            fewer left, or has not got so far.
        direction: Whether a larger or a smaller objective is better.
        smallest_margin: Differences below this do not matter; the band is this or the deviation
            between the first two seeds, whichever is larger.
        incumbent: Key of what is in use now. Where it is not among the verified the best mean
            leads, and of those shown to be as good the cheapest is recommended.
        tolerance: The band, in place of both.
        goal: What is cheaper: "time", by the training seconds; "memory", by the batch size;
            "metric": nothing is, and only a better one replaces the incumbent.

    Raises:
        InputError: No configuration, one without a score, or one that lacks a round before its
            last one.
    """
    rounds = sorted({number for one in verified for number in one.scores})
    if not rounds or any(sorted(v.scores) != rounds[: len(v.scores)] for v in verified):
        raise InputError("Every configuration needs scores of the first rounds, at least of one.")
    ordered = sorted(verified, key=lambda v: v.key != incumbent)  # stable: the incumbent first
    if any(not one.scores for one in ordered):
        raise InputError("Every configuration needs scores of the first rounds, at least of one.")
    has_baseline = ordered[0].key == incumbent
    seconds = [statistics.median(v.seconds.values()) for v in ordered]
    costs = {"time": seconds, "memory": [float(v.batch_size) for v in ordered], "metric": None}
    race = _replay(
        ordered,
        rounds,
        sign=-1.0 if direction == "min" else 1.0,
        costs=costs[goal],
        has_baseline=has_baseline,
        tolerance=tolerance,
        smallest_margin=smallest_margin,
    )
    return _choice(race, ordered, seconds, direction=direction, has_baseline=has_baseline)


def _replay(
    ordered: Sequence[Verified],
    rounds: Sequence[int],
    *,
    sign: float,
    costs: Sequence[float] | None,
    has_baseline: bool,
    tolerance: float | None,
    smallest_margin: float,
) -> Race:
    """The race after its last round."""
    count, first = len(rounds), ordered[0]
    scores = np.full((1, len(ordered), 2 * count), np.nan)
    for row, one in enumerate(ordered):
        for column, number in enumerate(rounds):
            scores[0, row, column] = sign * one.scores.get(number, np.nan)
    for column, number in enumerate(rounds):
        scores[0, 0, count + column] = sign * first.again.get(number, np.nan)
    race = Race(
        None if costs is None else np.array([costs]),
        shape=(1, len(ordered)),
        again=bool(first.again),
        has_baseline=has_baseline,
        tolerance=tolerance,
        smallest_band=smallest_margin,
    )
    for seeds in range(1, count + 1):
        seen = scores.copy()
        seen[:, :, seeds:count] = np.nan
        seen[:, :, count + seeds :] = np.nan
        race.judge(seeds, seen, ~np.isnan(scores[:, :, seeds - 1]))
    return race


def _choice(
    race: Race,
    ordered: Sequence[Verified],
    seconds: Sequence[float],
    *,
    direction: Direction,
    has_baseline: bool,
) -> Choice:
    sign = -1.0 if direction == "min" else 1.0
    means = race.noise.means[0]
    best, chosen = int(means.argmax()), int(race.recommended()[0])
    noise = math.sqrt(race.noise.pooled[0])
    comparisons = [
        Comparison(
            key=one.key,
            seeds=len(one.scores),
            mean=float(sign * means[row]),
            deficit=float(means[best] - means[row]),
            half_width=_half_width(race, best, row, has_baseline),
            gain=float(means[row] - means[0]) if has_baseline else math.nan,
            gain_half_width=_half_width(race, row, 0, has_baseline) if has_baseline else math.nan,
            better=bool(race.better[0, row]),
            tied=bool(race.close[0, row]),
            out=bool(race.out[0, row]),
            seconds=seconds[row],
        )
        for row, one in enumerate(ordered)
    ]
    return Choice(
        recommended=ordered[chosen].key,
        best=ordered[best].key,
        margin=float(race.band[0]),
        noise=noise if math.isfinite(noise) else math.nan,
        comparisons=tuple(sorted(comparisons, key=lambda c: c.deficit)),
        estimate=_estimate(chosen_mean(race, has_baseline=has_baseline), sign, has_baseline),
        undecided=_undecided(race, ordered, has_baseline=has_baseline),
        decided=bool(race.decided()[0]),
    )


def _half_width(race: Race, one: int, other: int, has_baseline: bool) -> float:
    """Of the difference of two configurations, at the last look's bound."""
    if one == other:
        return 0.0
    of_baseline = has_baseline and 0 in (one, other)
    bound = float(race.bounds[0, 0 if of_baseline else 1])
    return math.inf if math.isnan(bound) else bound * float(race.errors[0, one, other])


def _estimate(found: ChosenMean, sign: float, has_baseline: bool) -> Estimate:
    return Estimate(
        mean=float(sign * found.mean[0]),
        half_width=float(found.half_width[0]),
        gain=float(found.gain[0]) if has_baseline else math.nan,
        gain_half_width=float(found.gain_half_width[0]) if has_baseline else math.nan,
    )


def _undecided(
    race: Race, ordered: Sequence[Verified], *, has_baseline: bool
) -> tuple[Undecided, ...]:
    """Cheaper ones that may be as good, then better means that may be better."""
    band, apart = float(race.band[0]), race.apart[0]
    leader = int(race.leader()[0])
    found = []
    for row in map(int, np.flatnonzero(race.undecided()[0])):
        rival = max((n for n in range(len(ordered)) if n != row), key=lambda n: apart[n, row])
        gap = band - float(apart[rival, row])
        seeds = _seeds(race, row, rival, gap, has_baseline)
        found.append(Undecided(ordered[row].key, "as good", seeds))
    if not has_baseline or leader != 0:
        return tuple(found)
    for row in range(1, len(ordered)):
        if apart[row, 0] > 0 and not race.out[0, row]:
            seeds = _seeds(race, row, 0, float(apart[row, 0]), has_baseline)
            found.append(Undecided(ordered[row].key, "better", seeds))
    return tuple(found)


def _seeds(race: Race, one: int, other: int, gap: float, has_baseline: bool) -> int | None:
    """The first look to come at which a gap of this size, above or below, would be shown."""
    now = int(race.noise.counts[0, one])
    error = float(race.errors[0, one, other])
    which = 0 if has_baseline and 0 in (one, other) else 1
    for look in (n for n in SPENT if n > now):
        known = bounds(len(race.better[0]), look, again=race.again)[look]
        bound = (known.from_baseline, known.from_other)[which]
        if bound * error * math.sqrt(now / look) <= abs(gap):
            return look
    return None
