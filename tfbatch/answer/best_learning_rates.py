"""The best learning rate of each batch size in a run, and the slope that they show."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence

from tfbatch.estimators.learning_rate_exponent import (
    FEWEST_SIZES,
    LearningRateExponent,
    fit_learning_rate_exponent,
)
from tfbatch.trial.finished_trial import FinishedTrial
from tfbatch.trial.trials import Trials

SAME_RATE_OCTAVES = 0.1
"""Learning rates that are nearer to one another, 7 %, count as one that was tried twice."""


@dataclasses.dataclass(frozen=True)
class Bracket:
    """The best learning rate of a batch size, and whether it lies between worse ones.

    Attributes:
        batch_size: The batch size.
        trials: Number of its trials in the search that completed or diverged.
        rates: Number of distinct learning rates that these had.
        trial: The best trial; None where none completed.
        below: The next lower rate that was not better, or None.
        above: The next higher rate that was not better, or diverged; or None.
    """

    batch_size: int
    trials: int
    rates: int
    trial: FinishedTrial | None
    below: float | None
    above: float | None

    @property
    def best(self) -> float | None:
        """The best learning rate; None where none completed."""
        return self.trial.learning_rate if self.trial else None

    @property
    def closed(self) -> bool:
        """Whether a lower and a higher rate bound it: else it is a bound, no measurement."""
        return self.below is not None and self.above is not None


def bracket_of(trials: Trials, batch_size: int) -> Bracket:
    """The learning rates that the search tried at a batch size, around its best.

    The best is that of the run's full length, or, where there is none, of the longest other length.
    A higher rate bounds it if it diverged, and any other if, at an equal length, it was no better
    than the best rate or one between the two. A higher rate that was better in shorter trainings
    bounds nothing, nor does one that was stopped before the end of its decay: it hides what was
    learned. Rates less than `SAME_RATE_OCTAVES` apart are one.
    """
    searched = trials.of_phase("search", "baseline").of_batch_size(batch_size)
    tried = [t for t in searched if t.status in ("completed", "diverged")]
    full = trials.searched().of_batch_size(batch_size)
    best = full.best() or _best_of_the_longest(trials, tried)
    rates = _different([t.learning_rate for t in tried])
    if best is None:
        return Bracket(batch_size, len(tried), rates, None, None, None)
    rate = best.learning_rate
    sign = 1.0 if trials.objective.direction == "min" else -1.0
    bounds = [t for t in tried if _bounds(t, rate, tried, sign)]
    return Bracket(
        batch_size,
        len(tried),
        rates,
        best,
        max((t.learning_rate for t in bounds if t.learning_rate < rate), default=None),
        min((t.learning_rate for t in bounds if t.learning_rate > rate), default=None),
    )


def _different(rates: Sequence[float]) -> int:
    """How many there are, those that are one counted once."""
    octaves = sorted(map(math.log2, rates))
    apart = (high - low >= SAME_RATE_OCTAVES for low, high in itertools.pairwise(octaves))
    return bool(octaves) + sum(apart)


def _bounds(
    trial: FinishedTrial, best_rate: float, tried: list[FinishedTrial], sign: float
) -> bool:
    """Whether a trial shows that the best rate is on the other side of its own."""
    distance = math.log2(trial.learning_rate / best_rate)
    if abs(distance) < SAME_RATE_OCTAVES:
        return False
    if trial.score is None:
        return distance > 0  # a lower rate diverges for another reason than its size
    if distance > 0 and trial.length < trial.total_examples:
        return False
    nearer = [
        sign * t.score
        for t in tried
        if t.score is not None
        and _course(t) == _course(trial)
        and _between(math.log2(t.learning_rate / best_rate), distance)
    ]
    return any(score <= sign * trial.score for score in nearer)


def _between(place: float, end: float) -> bool:
    """Whether a distance from the best rate, in octaves, lies from 0 to short of the end."""
    place, end = (place, end) if end > 0 else (-place, -end)
    return -SAME_RATE_OCTAVES < place <= end - SAME_RATE_OCTAVES


def _course(trial: FinishedTrial) -> tuple[int, int, int]:
    """Scores are compared at one point of one schedule's length only."""
    return trial.total_examples, trial.length, trial.course_from


def _best_of_the_longest(trials: Trials, tried: list[FinishedTrial]) -> FinishedTrial | None:
    completed = [t for t in tried if t.score is not None]
    if not completed:
        return None
    longest = max(t.length for t in completed)
    names = {t.trial for t in completed if t.length == longest}
    return next(t for t in trials.ranked() if t.trial in names)


def brackets_of(trials: Trials) -> tuple[Bracket, ...]:
    """One for each batch size that the search or the baseline tried, the smallest first."""
    sizes = trials.of_phase("search", "baseline").batch_sizes()
    return tuple(bracket_of(trials, size) for size in sizes)


def exponent_of(brackets: Sequence[Bracket]) -> LearningRateExponent | None:
    """The power of the batch size that the bracketed best learning rates follow.

    A rate is not known better than the distance between those around it.

    Args:
        brackets: One for each batch size.

    Returns:
        None where fewer than 3 batch sizes have a bracketed one.
    """
    sizes: list[int] = []
    rates: list[float] = []
    octaves: list[float] = []
    for one in brackets:
        if one.best and one.below and one.above:
            sizes.append(one.batch_size)
            rates.append(one.best)
            octaves.append(math.log2(one.above / one.below) / 2)
    if len(sizes) < FEWEST_SIZES:
        return None
    return fit_learning_rate_exponent(sizes, rates, resolution_octaves=statistics.median(octaves))
