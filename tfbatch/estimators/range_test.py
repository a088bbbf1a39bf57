"""What a learning-rate range test suggests: four known rules, and when not to believe them.

A range test (Smith 2015, arXiv 1506.01186) trains for a few hundred steps while the rate grows
exponentially. Each rule reads the loss curve in its own way; single rules are known to be
unstable, so that all are shown, over several seeds, with the reasons for doubt.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from tfbatch.errors import InputError
from tfbatch.estimators.vectors import Array, checked_array

FEWEST_STEPS = 20
DIVERGED = 3.0
"""A smoothed loss above this many times the first one has diverged."""
RULES_DISAGREE = 10.0
SEEDS_DISAGREE = 4.0
SMALLEST_DESCENT = 0.05
"""Less descent than this share of the first loss, or than three times the noise, is none."""
_FIRST = 5
_MOST_CONSTANT = 10
_SMOOTHING = 0.05
_VALLEY_FALL = 0.05
_SLIDE_LAG = 0.15
_SLIDE_FLAT = 0.01

Rule = Literal["steepest", "tenth of minimum", "valley", "slide"]


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """What one rule suggests.

    Attributes:
        rule: "steepest": where the loss falls fastest over the LOGARITHM of the rate. "tenth of
            minimum": a tenth of the rate with the lowest loss. "valley": half way
            down the longest descent (after fastai). "slide": where, coming from the right, the
            blow-up ends (after fastai).
        learning_rate: From the mean curve of the seeds; None where the rule finds nothing.
        by_seed: From each seed's own curve; NaN where the rule finds nothing.
    """

    rule: Rule
    learning_rate: float | None
    by_seed: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """The suggestions of a learning-rate range test.

    Attributes:
        learning_rate: Geometric median of the rules; None without a descent.
        suggestions: Every rule's own.
        diverges_at: Smallest rate at which the sweep's loss diverged; None if it never did. A
            sweep is soon past a rate, so that a training diverges at smaller ones.
        smoothed: [steps] the mean curve that the rules read, up to where it diverged.
        doubts: Why not to rely on it; empty if nothing is wrong.
        climbs_at: Smallest rate beyond the lowest loss at which half of the descent is lost again;
            None if it never is. A loss that is bounded (dead units) climbs without diverging.
    """

    learning_rate: float | None
    suggestions: tuple[Suggestion, ...]
    diverges_at: float | None
    smoothed: tuple[float, ...]
    doubts: tuple[str, ...]
    climbs_at: float | None = None

    @property
    def ends_at(self) -> float | None:
        """Where constant rates are tried below: where the loss diverged, else where it climbed."""
        return self.climbs_at if self.diverges_at is None else self.diverges_at

    def __str__(self) -> str:
        """For a table."""
        rate = "no suggestion" if self.learning_rate is None else f"{self.learning_rate:.3g}"
        rules = ", ".join(
            f"{s.rule} {s.learning_rate:.2g}" for s in self.suggestions if s.learning_rate
        )
        doubts = f" (do not trust: {'; '.join(self.doubts)})" if self.doubts else ""
        return f"{rate} [{rules}]{doubts}"


@dataclasses.dataclass(frozen=True)
class ConstantRate:
    """As many updates as a sweep has, at one rate.

    Attributes:
        learning_rate: The rate.
        loss: Median loss of the last tenth of the updates; NaN where it diverged.
        held: Whether every loss was finite, and the last ones are below the untrained model's.
    """

    learning_rate: float
    loss: float
    held: bool


class ConstantRates:
    """Trainings at constant rates: halves until one holds for a whole sweep, then on while it pays.

    A growing rate is soon past each value, and a training diverges below where the sweep does.

        rate_1 = above / 2;   rate_k+1 = rate_k / 2

    Args:
        above: Where the growing rate diverged or climbed, `RangeTest.ends_at`.
        first_loss: Loss of the untrained model.

    Attributes:
        found: Those that were trained, in the order of their rates, descending.
    """

    def __init__(self, *, above: float, first_loss: float):
        self._rate, self._first_loss = above / 2, first_loss
        self._is_over = False
        self.found: tuple[ConstantRate, ...] = ()

    def next_rate(self) -> float | None:
        """The rate to train at next; None when one has ended no lower than the one above it."""
        return None if self._is_over or len(self.found) >= _MOST_CONSTANT else self._rate

    def add(self, losses: Sequence[float]) -> None:
        """What the training at `next_rate()` came to.

        Args:
            losses: Loss of each update; not finite from where it diverged.
        """
        end = float(np.median(losses[-max(len(losses) // 10, 1) :]))
        held = bool(np.isfinite(losses).all()) and end < self._first_loss
        before = self.found[-1] if self.found else None
        self.found += (ConstantRate(self._rate, end if held else math.nan, held),)
        self._rate /= 2
        self._is_over = before is not None and before.held and not end < before.loss


def best_rate(result: RangeTest, constant: Sequence[ConstantRate]) -> float | None:
    """The constant rate whose loss ended lowest; where none held, the median of the rules.

    None where that median is no smaller than a rate that was measured not to hold.
    """
    held = [one for one in constant if one.held]
    if held:
        return min(held, key=lambda one: one.loss).learning_rate
    rate = result.learning_rate
    disproved = min((one.learning_rate for one in constant), default=math.inf)
    return rate if rate is not None and rate < disproved else None


def largest_held_rate(constant: Sequence[ConstantRate]) -> float | None:
    """The largest rate that held for a whole sweep; None if none did."""
    return max((one.learning_rate for one in constant if one.held), default=None)


def doubts_of_constant_rates(constant: Sequence[ConstantRate]) -> tuple[str, ...]:
    """Why to trust no suggestion where constant rates were tried and none held; else empty."""
    if not constant or largest_held_rate(constant) is not None:
        return ()
    smallest = min(one.learning_rate for one in constant)
    return (f"no constant rate that was tried holds, not even {smallest:.3g}: go further down",)


def read_range_test(learning_rates: npt.ArrayLike, losses: npt.ArrayLike) -> RangeTest:
    """Reads a range test by every rule.

    Args:
        learning_rates: [steps] the rates, ascending, at least 20, best evenly spaced in their
            logarithm.
        losses: [seeds, steps] the loss of each step; not finite from where a seed diverged.

    Raises:
        InputError: Rates that do not ascend or are too few, another shape, a first loss that is
            not finite.
    """
    rates = checked_array(learning_rates, name="learning_rates", at_least=FEWEST_STEPS)
    curves = np.asarray(losses, dtype=np.float64)
    if curves.ndim != 2 or curves.shape[1] != len(rates) or not len(curves):
        raise InputError(
            f"`losses` must be [seeds, steps], with a step for each of the {len(rates)} learning "
            f"rates. Received an array of shape {curves.shape}."
        )
    if (np.diff(rates) <= 0).any():
        raise InputError("`learning_rates` must ascend.")
    if not np.isfinite(curves[:, 0]).all():
        raise InputError(
            "The first loss of every seed must be finite: begin with a smaller learning rate."
        )
    smoothed, end = _smoothed(curves.mean(axis=0))
    mean = _suggest(rates[:end], smoothed)
    each = [_suggest(rates[:stop], curve) for curve, stop in map(_smoothed, curves)]
    suggestions = tuple(
        Suggestion(rule, mean[rule], tuple(seed[rule] or math.nan for seed in each))
        for rule in mean
    )
    doubts = _doubts(rates, curves.mean(axis=0), smoothed, end, suggestions)
    descends = not any(doubt.startswith("the loss hardly falls") for doubt in doubts)
    return RangeTest(
        learning_rate=_median([r for r in mean.values() if r]) if descends else None,
        suggestions=suggestions,
        diverges_at=float(rates[end]) if end < len(rates) else None,
        smoothed=tuple(smoothed.tolist()),
        doubts=tuple(doubts),
        climbs_at=_climbs_at(rates, smoothed),
    )


def _climbs_at(rates: Array, smoothed: Array) -> float | None:
    lowest = int(smoothed.argmin())
    climbed = smoothed[lowest:] > (smoothed[0] + smoothed[lowest]) / 2
    return float(rates[lowest + climbed.argmax()]) if climbed.any() else None


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether a running sweep is to end: one loss may be a bad batch, three are not.

    Not finite, or the last three all above `divergence_bar`.

    Args:
        losses: Those so far, at least one.
    """
    if not math.isfinite(losses[-1]):
        return True
    return len(losses) >= _FIRST and min(losses[-3:]) > divergence_bar(losses)


def divergence_bar(losses: Sequence[float]) -> float:
    """3 times the median of the first five losses; infinite where that is not > 0."""
    bar = DIVERGED * float(np.median(losses[:_FIRST]))
    return bar if bar > 0 else math.inf


def _smoothed(losses: Array) -> tuple[Array, int]:
    """A centered mean, which does not lag as a running one does, and where the curve diverges.

    The mean is taken up to the first step that is not finite, or jumps above the bar by itself.
    """
    finite = np.isfinite(losses)
    end = len(losses) if finite.all() else int(finite.argmin())
    half = max(1, round(_SMOOTHING * len(losses) / 2))
    first = 2 * half + 1
    bar = DIVERGED * float(np.median(losses[:first][finite[:first]]))
    above = losses[:end] > bar if bar > 0 else np.zeros(end, dtype=bool)
    lasting = above[:-1] & above[1:]  # one bad batch is not a divergence
    lasting[:first] = False  # nor are losses that set the bar: they may be noisy, or fall fast
    if lasting.any():
        end = int(lasting.argmax())
    sums = np.concatenate([[0.0], np.cumsum(losses[:end])])
    index = np.arange(end)
    reach = np.minimum(half, np.minimum(index, end - 1 - index))  # symmetric at the ends too
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1), end


def _suggest(rates: Array, losses: Array) -> dict[Rule, float | None]:
    if len(losses) < 5:
        return {"steepest": None, "tenth of minimum": None, "valley": None, "slide": None}
    lowest = int(losses.argmin())
    slope = np.gradient(losses, np.log(rates))
    steepest = int(slope[: lowest + 1].argmin())
    return {
        "steepest": float(rates[steepest]) if slope[steepest] < 0 else None,
        "tenth of minimum": float(rates[lowest]) / 10,
        "valley": _valley(rates, losses),
        "slide": _slide(rates, losses),
    }


def _valley(rates: Array, losses: Array) -> float | None:
    """Half way down the longest decreasing subsequence.

    A fall counts from a share of the whole descent on: a plateau that sinks by nothing is none.
    """
    least = _VALLEY_FALL * float(losses[0] - losses.min())
    length, begins = np.ones(len(losses), dtype=int), np.arange(len(losses))
    for i in range(1, len(losses)):
        higher = np.flatnonzero(losses[:i] > losses[i] + least)
        if len(higher):
            before = higher[length[higher] == length[higher].max()][-1]
            length[i], begins[i] = length[before] + 1, begins[before]
    end = int(length.argmax())
    return float(rates[(int(begins[end]) + end) // 2]) if length[end] >= 3 else None


def _slide(rates: Array, losses: Array) -> float | None:
    """From the right, until the slopes at both ends of a lag are alike; in units of the descent."""
    descent = losses[0] - losses.min()
    if descent <= 0:
        return None
    slope = np.gradient(losses / descent)
    lag = max(2, round(_SLIDE_LAG * len(losses)))
    found = None
    for right in range(len(losses) - 1, lag - 1, -1):
        if abs(slope[right] - slope[right - lag]) <= _SLIDE_FLAT:
            break
        found = float(rates[right - lag])
    return found


def _doubts(
    rates: Array, losses: Array, smoothed: Array, end: int, suggestions: tuple[Suggestion, ...]
) -> list[str]:
    doubts = []
    lowest = int(smoothed.argmin())
    descent = float(smoothed[0] - smoothed[lowest])
    # Up to the minimum: behind it the loss blows up, which no smoothing follows.
    noise = float(np.std((losses[:end] - smoothed)[: lowest + 1]))
    if descent < max(SMALLEST_DESCENT * abs(float(smoothed[0])), 3 * noise):
        doubts.append("the loss hardly falls: train for more steps or from smaller rates")
    elif lowest >= len(smoothed) - 1 and end == len(rates):
        doubts.append("the loss still falls at the largest rate: go further up")
    found = [s.learning_rate for s in suggestions if s.learning_rate]
    if found and max(found) > RULES_DISAGREE * min(found):
        doubts.append(
            f"the rules lie between {min(found):.2g} and {max(found):.2g}, more than "
            f"{RULES_DISAGREE:g} times apart"
        )
    by_seed = zip(*(s.by_seed for s in suggestions), strict=True)
    middles = [_median([rate for rate in seed if rate > 0]) for seed in by_seed]
    known = [middle for middle in middles if middle]
    if len(known) < len(middles) or (known and max(known) > SEEDS_DISAGREE * min(known)):
        doubts.append(f"the seeds disagree by more than {SEEDS_DISAGREE:g} times")
    if len(middles) == 1:
        doubts.append("one seed only")
    return doubts


def _median(rates: list[float]) -> float | None:
    return math.exp(float(np.median(np.log(rates)))) if rates else None
