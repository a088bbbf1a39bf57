"""Which of the verified configurations to recommend: the fastest among those tied with the best."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from tfbatch.errors import InputError
from tfbatch.estimators.interval import mean_and_deviation, t_half_width
from tfbatch.metric_direction import Direction

SAME_SPEED = 0.05
"""Times that differ by less than this share are the same: smaller differences are the machine's."""


@dataclasses.dataclass(frozen=True)
class Verified:
    """One configuration, trained with fresh seeds.

    Attributes:
        key: What it is called.
        scores: The objective by seed; every configuration has the same seeds.
        seconds: Training seconds by seed.
    """

    key: str
    scores: Mapping[int, float]
    seconds: Mapping[int, float]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One configuration against the best one.

    Attributes:
        key: What it is called.
        mean: Mean objective.
        deficit: How far its mean lies behind the best (never negative).
        half_width: Half width of the 95 % paired t interval of the deficit; 0 for the best
            itself; infinite with one seed, which has no measure of noise.
        tied: Not shown to be worse than the best, and behind by no more than the margin.
        seconds: Median training seconds.
    """

    key: str
    mean: float
    deficit: float
    half_width: float
    tied: bool
    seconds: float


@dataclasses.dataclass(frozen=True)
class Choice:
    """The recommendation and what it rests on.

    Attributes:
        recommended: Key of the fastest configuration that is tied with the best.
        best: Key of the configuration with the best mean.
        margin: Largest deficit that counts as a tie.
        noise: Standard deviation between seeds of a typical configuration; NaN with one seed.
        comparisons: Every configuration, best first.
    """

    recommended: str
    best: str
    margin: float
    noise: float
    comparisons: tuple[Comparison, ...]


def choose(
    verified: Sequence[Verified],
    *,
    direction: Direction,
    smallest_margin: float,
    incumbent: str | None = None,
) -> Choice:
    """Chooses among configurations that were trained with the same fresh seeds.

    Every configuration is compared with the best one by the paired t interval of its own
    differences, so that a noisy one widens no other's interval. The margin rests on the lower
    median of the configurations' deviations between seeds, for the same reason. Among the tied
    ones whose time is within 5 % of the fastest, the incumbent is kept; else the best mean wins.

    Args:
        verified: At least one configuration, all with the same seeds.
        direction: Whether a larger or a smaller objective is better.
        smallest_margin: Differences below this do not matter; the margin is this or the noise,
            whichever is larger.
        incumbent: Key of what is in use now.

    Raises:
        InputError: No configuration, or configurations with different seeds.
    """
    seeds = sorted(verified[0].scores) if verified else []
    if not seeds or any(sorted(v.scores) != seeds for v in verified):
        raise InputError("Every configuration must be verified with the same seeds, at least one.")
    sign = 1.0 if direction == "min" else -1.0
    deviations = [mean_and_deviation(list(v.scores.values()))[1] for v in verified]
    noise = statistics.median_low(deviations) if len(seeds) > 1 else math.nan
    margin = smallest_margin if math.isnan(noise) else max(smallest_margin, noise)
    best = min(verified, key=lambda v: sign * statistics.fmean(v.scores.values()))
    comparisons = sorted(
        (_compare(v, best, seeds, sign, margin) for v in verified), key=lambda c: c.deficit
    )
    tied = [c for c in comparisons if c.tied]
    fastest = min(c.seconds for c in tied)
    near = [c for c in tied if c.seconds <= fastest * (1 + SAME_SPEED)]
    recommended = next((c for c in near if c.key == incumbent), near[0])
    return Choice(recommended.key, best.key, margin, noise, tuple(comparisons))


def _compare(
    one: Verified, best: Verified, seeds: list[int], sign: float, margin: float
) -> Comparison:
    differences = [sign * (one.scores[seed] - best.scores[seed]) for seed in seeds]
    deficit, deviation = mean_and_deviation(differences)
    half_width = 0.0 if one is best else t_half_width(deviation, len(seeds), len(seeds) - 1)
    return Comparison(
        key=one.key,
        mean=statistics.fmean(one.scores.values()),
        deficit=deficit,
        half_width=half_width,
        tied=one is best or (deficit <= margin and deficit <= half_width),
        seconds=statistics.median(one.seconds.values()),
    )
