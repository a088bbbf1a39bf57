"""The search for the largest batch size that fits, as a pure function of what was tried so far.

history = []
while isinstance(step := next_probe(history, budget_bytes=budget), NextProbe):
    history.append(run_and_classify(step.batch_size))
print(step)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from tfbatch.errors import InputError
from tfbatch.estimators.vectors import check_positive

MOST_PROBES = 7
CLOSE_ENOUGH = 0.9
"""An answer is close if it is at least this share of the largest size that may fit."""
NOISE = 0.03
"""Relative error that a measured peak is believed to have, where nothing better is known."""
_GROWTH, _SHRINKAGE = 16, 8
# Tuned on 1,500 simulated memory curves, as the tests have them:
_CLEARLY = 5  # noises by which two peaks must differ to show growth
_HIGHEST_AIM, _LOWEST_AIM = 0.98, 0.4  # shares of the limit by the line
_BEND = 0.05  # taken off the aim for every factor e of extrapolation
_VERIFYING = 1.07  # a failure this far above what fits settles the answer, noise included
_RETREATS = (0.905, 0.75)  # after one and two failures where the line saw room
_NEAR, _SEVERAL = 8, 4  # a line through at least 4 sizes within a factor of 8
_TRUSTED_ERROR, _CLOSE_BY_LINE = 0.06, 0.93

Outcome = Literal["ok", "oom", "killed", "timeout", "error"]


@dataclasses.dataclass(frozen=True)
class Probe:
    """One size that was run.

    Attributes:
        batch_size: Examples in the step.
        outcome: "ok"; "oom", "killed" or "timeout" if it was too large for the machine; "error"
            for a failure that has nothing to do with the size.
        peak_bytes: Peak memory if it is known, also of a probe that did not end well.
    """

    batch_size: int
    outcome: Outcome
    peak_bytes: float | None = None

    def fits(self, budget_bytes: float) -> bool:
        """Whether it ran, within the budget."""
        return self.outcome == "ok" and (self.peak_bytes or 0) <= budget_bytes


@dataclasses.dataclass(frozen=True)
class NextProbe:
    """Run this size next.

    Attributes:
        batch_size: The size.
        reason: Why this one.
    """

    batch_size: int
    reason: str


@dataclasses.dataclass(frozen=True)
class LargestBatch:
    """The end of the search.

    Attributes:
        batch_size: The largest size that was run and fits; 0 if none did.
        below: Smallest size known not to fit; None if none is known.
        verdict: "found": within 10 % of the largest that fits, because a size close above failed
            or because the line through the measured peaks leaves no more room. "cap": the largest
            allowed size fits. "nothing fits". "stopped": the probes are used up, or one ended in
            an error; the answer fits, but may be too small. "cut short": it ended before it had an
            answer; the size was seen to fit, and nothing between it and `below` was measured.
        reason: The same in words.
        probes: Number of probes.
    """

    batch_size: int
    below: int | None
    verdict: Literal["found", "cap", "nothing fits", "stopped", "cut short"]
    reason: str
    probes: int

    def __str__(self) -> str:
        """For a table."""
        return f"{self.batch_size} ({self.reason}; {self.probes} probes)"


@dataclasses.dataclass(frozen=True)
class _Known:
    """What the history says: `low` fits, `high` does not (one above the cap if none failed)."""

    low: int
    high: int
    failures: tuple[int, ...]
    budget: float
    peaks: tuple[tuple[int, float], ...]
    noise: float


def next_probe(
    history: Sequence[Probe],
    *,
    budget_bytes: float,
    cap: int,
    first: int = 32,
    most_probes: int = MOST_PROBES,
    noise: float = NOISE,
) -> NextProbe | LargestBatch:
    """The next size to run, or the answer.

    It grows sixteenfold until memory is seen to grow, then aims below where the line through two
    peaks meets the budget - further below the less that line can be known - and runs that size: an
    answer is always a size that ran and fits. Where the line misled, it steps back from the size
    that failed, and at last halves the bracket on a logarithmic scale.

    On 1,500 simulated memory curves (straight, stepped, bent, with a floor of 600 MB; peaks known
    to 3 %; limits from 1 to a million) 98 % of the answers lay within 10 % of the true limit,
    after 4 probes at the median; 97 % and 5 where the machine gave out 10 % below the budget.

    Args:
        history: The probes so far, in any order.
        budget_bytes: Bytes that may be used; a probe whose peak is above does not fit.
        cap: Largest size allowed, such as the number of training examples.
        first: Size of the first probe.
        most_probes: Probes after which the search ends with what it has.
        noise: Relative error that a measured peak is believed to have.

    Raises:
        InputError: A number below 1; a noise that is no share of 1.
    """
    check_positive(budget_bytes=budget_bytes)
    if not 0 < noise < 1:
        raise InputError(f"`noise` must be above 0 and below 1. Received: {noise}.")
    if min(cap, first, most_probes) < 1:
        raise InputError(
            "`cap`, `first` and `most_probes` must be >= 1. Received: "
            f"{cap=}, {first=}, {most_probes=}."
        )
    known = _known(history, budget_bytes, cap, noise)
    answer = _answer(known, history, cap, most_probes)
    if answer is not None:
        return answer
    if not history:
        return NextProbe(min(first, cap), "a small size to begin with")
    size, reason = _size(known)
    return NextProbe(max(known.low + 1, min(size, known.high - 1)), reason)


def cut_short(history: Sequence[Probe], *, budget_bytes: float, cap: int) -> LargestBatch:
    """What is known where the search ends before its answer; see `next_probe`."""
    known = _known(history, budget_bytes, cap, NOISE)
    below = known.high if known.failures else None
    return LargestBatch(known.low, below, "cut short", "the time was over", len(history))


def _known(history: Sequence[Probe], budget: float, cap: int, noise: float) -> _Known:
    fitting = [p.batch_size for p in history if p.fits(budget)]
    failing = [p.batch_size for p in history if not p.fits(budget) and p.outcome != "error"]
    high = min(failing, default=cap + 1)
    low = max((size for size in fitting if size < high), default=0)
    peaks = sorted(
        {p.batch_size: p.peak_bytes for p in history if p.peak_bytes is not None}.items()
    )
    return _Known(low, high, tuple(failing), budget, tuple(peaks), noise)


def _answer(
    known: _Known, history: Sequence[Probe], cap: int, most_probes: int
) -> LargestBatch | None:
    below = known.high if known.failures else None
    line = _line(known)

    def found(
        verdict: Literal["found", "cap", "nothing fits", "stopped"], reason: str
    ) -> LargestBatch:
        return LargestBatch(known.low, below, verdict, reason, len(history))

    if any(p.outcome == "error" for p in history):
        return found("stopped", "a probe ended in an error that is not about its size")
    if known.low == cap:
        return found("cap", "the largest allowed size fits")
    if known.high == 1:
        return found("nothing fits", "not even a batch of one fits")
    if known.failures and known.low >= CLOSE_ENOUGH * (known.high - 1):
        return found("found", f"{known.high} does not fit")
    if line and line.error <= _TRUSTED_ERROR and known.low >= _CLOSE_BY_LINE * line.limit:
        return found("found", f"the line through the peaks ends at {int(line.limit)}")
    if len(history) >= most_probes:
        return found("stopped", "the probes are used up")
    return None


def _size(known: _Known) -> tuple[int, str]:
    if not known.low:
        return max(1, known.high // _SHRINKAGE), "the smallest size so far does not fit"
    line = _line(known)
    verifying = int(known.low * _VERIFYING) + 1  # if it fails, the answer is close enough
    if line is not None and line.aim < known.high:
        return max(int(line.aim), verifying), "just below where the line through the peaks ends"
    if not known.failures:
        return known.low * _GROWTH, "memory is not seen to grow yet"
    middle = math.sqrt(known.low * known.high)
    failures_near = sum(size <= 1.5 * known.high for size in known.failures)
    if line is not None and failures_near <= len(_RETREATS):
        middle = max(middle, _RETREATS[failures_near - 1] * known.high)
    size = max(int(middle), min(verifying, known.high - 1))
    return size, "between a size that fits and one that does not"


@dataclasses.dataclass(frozen=True)
class _Line:
    """Where the line through two peaks meets the budget, and the relative error of that."""

    limit: float
    error: float
    reach: float

    @property
    def aim(self) -> float:
        """Below the limit by its error, and by the bend that a long reach may hide."""
        doubt = self.error + _BEND * math.log(max(self.reach, 1.0))
        return self.limit * max(_HIGHEST_AIM - doubt, _LOWEST_AIM)


def _line(known: _Known) -> _Line | None:
    """The line from the nearest clearly smaller peak to the last; None if no growth is seen.

    Where several sizes near the last are known, it is the least-squares line through them.
    """
    if len(known.peaks) < 2:
        return None
    last_size, last = known.peaks[-1]
    anchors = [pair for pair in known.peaks if pair[1] < last * (1 - _CLEARLY * known.noise)]
    if not anchors:
        return None
    near = [pair for pair in known.peaks if _NEAR * pair[0] >= last_size]
    if len(near) >= _SEVERAL and near[0] in anchors:
        return _fitted(near, known)
    size, peak = anchors[-1]
    per_byte = (last_size - size) / (last - peak)
    share = (known.budget - last) / (last - peak)
    limit = last_size + per_byte * (known.budget - last)
    error = known.noise * per_byte * math.hypot(last * (1 + share), peak * share)
    return _Line(limit, error / abs(limit), limit / last_size)


def _fitted(points: Sequence[tuple[int, float]], known: _Known) -> _Line | None:
    """By least squares; the error is that of a line's crossing with all peaks equally noisy."""
    count = len(points)
    size = sum(s for s, _ in points) / count
    peak = sum(p for _, p in points) / count
    spread = sum((s - size) ** 2 for s, _ in points)
    slope = sum((s - size) * (p - peak) for s, p in points) / spread
    if slope <= 0:
        return None
    limit = size + (known.budget - peak) / slope
    error = known.noise * peak / slope * math.sqrt(1 / count + (limit - size) ** 2 / spread)
    return _Line(limit, error / abs(limit), limit / points[-1][0])
