"""Which of the verified configurations to recommend, and what the scores show.

What is in use now is kept unless something is shown to be better, or shown to be as good and
cheaper. The design of the race and its error rates: docs/design/answer.md.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from tfbatch.errors import InputError
from tfbatch.estimators.chosen_mean import chosen_mean
from tfbatch.estimators.race import Flags, Outlook, Race
from tfbatch.estimators.vectors import Array
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

    Deficit, gain and their intervals are those of the last look in which both took part; the
    intervals hold for all configurations and looks together. They are infinite before the first
    look, with one seed.

    Attributes:
        key: What it is called.
        seeds: Number of its fresh seeds.
        mean: Mean objective.
        looked_at: Number of seeds at its last look; 0 before one.
        deficit: How far its mean lies behind the best (never negative).
        half_width: Half width of the deficit's interval; 0 for the best mean itself.
        gain: How far its mean lies above the incumbent's, positive where better; NaN without one.
        gain_half_width: Half width of the gain's interval.
        better: Shown to be better than the incumbent.
        tied: Cheaper than the leader (the baseline, or the best of those that are shown to be
            better), and shown to lie behind it by no more than the band.
        out: Left the race.
        seconds: Median training seconds.
    """

    key: str
    seeds: int
    mean: float
    looked_at: int
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
        half_width: Half width of its 95 % interval; infinite before the first look.
    """

    mean: float
    half_width: float


@dataclasses.dataclass(frozen=True)
class Undecided:
    """A configuration that more seeds would decide about.

    Attributes:
        key: What it is called.
        question: "as good", of one that is cheaper than the recommended one; or "better", of one
            whose mean is above the incumbent's.
        seeds: The number of seeds of the first look that decides as likely as not, or else of the
            last of all; None if none is to come, or before the first look.
        probability: That it decides then, predicted from the scores so far; None likewise.
        at_most: What its deficit to the leader is shown not to exceed; infinite before a look.
    """

    key: str
    question: Literal["as good", "better"]
    seeds: int | None
    probability: float | None
    at_most: float


@dataclasses.dataclass(frozen=True)
class Choice:
    """The recommendation and what it rests on.

    Attributes:
        recommended: Its key.
        best: Key of the configuration with the best mean, at the last look.
        margin: The band: deficits up to this do not matter.
        noise: Pooled standard deviation between seeds; NaN with one round.
        comparisons: Every configuration, best mean first; who has come after the last look is
            last.
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
            between the first three seeds, whichever is larger.
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
        least_deviation=_step(scores) / 2,
    )
    for seeds in range(1, count + 1):
        seen = scores.copy()
        seen[:, :, seeds:count] = np.nan
        seen[:, :, count + seeds :] = np.nan
        race.judge(seeds, seen, ~np.isnan(scores[:, :, seeds - 1]))
    return race


def _step(scores: Array) -> float:
    """The smallest difference of two scores: of an accuracy one validation example, or some.

    Scores that are all the same lie within one such step, and what lies within a step deviates by
    at most half of it (Popoviciu, 1935). Without that, two equal accuracies would have no noise.
    """
    apart = np.diff(np.sort(scores[~np.isnan(scores)]))
    return float(apart[apart > 0].min(initial=np.inf)) if (apart > 0).any() else 0.0


def _choice(
    race: Race,
    ordered: Sequence[Verified],
    seconds: Sequence[float],
    *,
    direction: Direction,
    has_baseline: bool,
) -> Choice:
    sign = -1.0 if direction == "min" else 1.0
    means, rounds = race.noise.means[0], max(len(one.scores) for one in ordered)
    best, chosen = _best(race), int(race.recommended()[0])
    noise, last = math.sqrt(race.noise.pooled[0]), int(race.looked.max())
    comparisons = [
        Comparison(
            key=one.key,
            seeds=len(one.scores),
            mean=float(sign * means[row]),
            looked_at=int(race.looked[0, row]),
            deficit=max(float(race.shown[0, best, row]), 0.0),
            half_width=float(race.shown_widths[0, best, row]),
            gain=float(race.gains[0, row]) if has_baseline else math.nan,
            gain_half_width=float(race.gain_widths[0, row]) if has_baseline else math.nan,
            better=bool(race.better[0, row]),
            tied=bool(race.close[0, row]),
            out=bool(race.out[0, row]),
            seconds=seconds[row],
        )
        for row, one in enumerate(ordered)
    ]
    expected = chosen_mean(race, has_baseline=has_baseline)
    return Choice(
        recommended=ordered[chosen].key,
        best=ordered[best].key,
        margin=float(race.band[0]),
        noise=noise if math.isfinite(noise) and rounds > 1 else math.nan,
        comparisons=tuple(sorted(comparisons, key=lambda c: (c.looked_at < 1 <= last, c.deficit))),
        estimate=Estimate(float(sign * expected.mean[0]), float(expected.half_width[0])),
        undecided=_undecided(race, ordered, has_baseline=has_baseline),
        decided=bool(race.decided()[0]),
    )


def _best(race: Race) -> int:
    """The best mean at the last look; before a first one, of all."""
    looked = np.flatnonzero(race.looked[0])
    among = looked if len(looked) else np.arange(len(race.looked[0]))
    return int(among[race.shown[0][np.ix_(among, among)].min(1).argmax()])


def _undecided(
    race: Race, ordered: Sequence[Verified], *, has_baseline: bool
) -> tuple[Undecided, ...]:
    """Cheaper ones that may be as good, then better means that may be better.

    Nothing where all is decided: both are what `Race.decided` waits for.
    """
    leader = int(race.leader()[0])
    at_most = race.shown_widths[0, leader] - race.shown[0, :, leader]
    as_good, better = race.undecided()[0], race.may_be_better()[0] & (race.shown[0, :, 0] > 0)
    better &= has_baseline and leader == 0
    questions: list[tuple[Literal["as good", "better"], Flags, Callable[[], Outlook]]] = [
        ("as good", as_good, race.outlook_for_as_good),
        ("better", better, race.outlook_for_better),
    ]
    found = []
    for question, open_ones, outlook in questions:
        for row in map(int, np.flatnonzero(open_ones)):
            seeds, probability = (float(figure[0, row]) for figure in outlook())
            found.append(
                Undecided(
                    ordered[row].key,
                    question,
                    None if math.isnan(seeds) else int(seeds),
                    None if math.isnan(seeds) else probability,
                    float(at_most[row]),
                )
            )
    return tuple(found)
