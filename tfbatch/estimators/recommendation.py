"""Which of the verified configurations to recommend: the fastest among those tied with the best."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from tfbatch.errors import InputError
from tfbatch.statistics import paired_residual_deviation, t_half_width


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
        half_width: Half width of the 95 % interval of the deficit; infinite with fewer than two
            seeds, since then there is no measure of the noise.
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
        noise: Standard deviation between seeds, after pairing; NaN with fewer than two seeds.
        comparisons: Every configuration, best first.
    """

    recommended: str
    best: str
    margin: float
    noise: float
    comparisons: tuple[Comparison, ...]


def choose(
    verified: Sequence[Verified], *, direction: Literal["min", "max"], smallest_margin: float
) -> Choice:
    """Chooses among configurations that were trained with the same fresh seeds.

    Seeds are paired: the noise is what an additive model of configuration and seed leaves over,
    and the 95 % interval of a difference of means over n seeds is t * noise * sqrt(2 / n).

    Args:
        verified: At least one configuration, all with the same seeds.
        direction: Whether a larger or a smaller objective is better.
        smallest_margin: Differences below this do not matter; the margin is this or the noise,
            whichever is larger.

    Raises:
        InputError: No configuration, or configurations with different seeds.
    """
    if not verified or any(v.scores.keys() != verified[0].scores.keys() for v in verified):
        raise InputError("Every configuration must be verified with the same seeds, at least one.")
    seeds = sorted(verified[0].scores)
    if not seeds:
        raise InputError("Every configuration must be verified with the same seeds, at least one.")
    table = [[v.scores[seed] for seed in seeds] for v in verified]
    noise, freedom = paired_residual_deviation(table)
    margin = smallest_margin if math.isnan(noise) else max(smallest_margin, noise)
    half_width = t_half_width(noise, len(seeds) / 2, freedom)
    sign = 1.0 if direction == "min" else -1.0
    means = {v.key: statistics.fmean(v.scores.values()) for v in verified}
    best = min(means, key=lambda key: sign * means[key])
    comparisons = []
    for v in verified:
        deficit = sign * (means[v.key] - means[best])
        comparisons.append(
            Comparison(
                key=v.key,
                mean=means[v.key],
                deficit=deficit,
                half_width=half_width,
                tied=deficit <= margin and deficit <= half_width,
                seconds=statistics.median(v.seconds.values()),
            )
        )
    comparisons.sort(key=lambda c: c.deficit)
    recommended = min((c for c in comparisons if c.tied), key=lambda c: c.seconds)
    return Choice(recommended.key, best, margin, noise, tuple(comparisons))
