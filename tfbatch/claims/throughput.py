"""X1: throughput against batch size. Nothing is trained to an end; only steps are timed.

The replicates are interleaved rounds, so that a drift of the machine falls on all sizes alike. What
is compared is paired within a round. The largest size is that of the preset: larger ones may fit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tfbatch.claims._batch_size_study import choosing_rounds, too_slow
from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._pairs import restless

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.estimators.knee import Knee
    from tfbatch.training.step_times import StepTime

CARD = "X1"
TITLE = "throughput of training steps against batch size"
ORDER = 10.0
CLAIMS: tuple[Claim, ...] = ()
MARGIN = math.log(1.05)
"""A difference of 5 % in speed matters."""
_FACTOR = 4
"""Sizes this far apart are compared."""


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    base = court.workload.baseline.batch_size
    sizes = court.study.sizes
    times = {one.batch_size: one for one in court.step_times(sizes)}
    for claim in ("bigger-uses-hardware-better", "bigger-is-faster"):
        larger = min((size for size in sizes if size >= _FACTOR * base), default=None)
        yield _compared(claim, "", times, larger, base)
    below = max((size for size in sizes if size * 2 <= sizes[-1]), default=None)
    for claim in ("as-large-as-possible", "fill-the-memory", "feed-the-hardware"):
        yield _compared(claim, "throughput", times, sizes[-1], below)
    if times:
        yield _knee(times)
    else:
        yield _untestable("best-size-times-devices", "knee", too_slow(sizes[0]))


def log_speed_ratios(one: StepTime, other: StepTime) -> tuple[float, ...]:
    """Log of the examples per second of one size over another's, for each round."""
    size = math.log(one.batch_size / other.batch_size)
    pairs = zip(one.rounds, other.rounds, strict=True)
    return tuple(size - math.log(a / b) for a, b in pairs)


def _compared(
    claim: str, part: str, times: dict[int, StepTime], one: int | None, other: int | None
) -> Evidence:
    """One size against another, where both are there and were timed."""
    if one is None or other is None:
        why = (
            "the batch sizes that the data allow are too close; give another --baseline=batch_size"
        )
        return _untestable(claim, part, why)
    for size in (one, other):
        if size not in times:
            return _untestable(claim, part, too_slow(size))
    return _evidence(claim, part, times[one], times[other])


def _evidence(claim: str, part: str, one: StepTime, other: StepTime) -> Evidence:
    fast, slow = (each.batch_size / each.seconds for each in (one, other))
    effects = log_speed_ratios(one, other)
    return Evidence(
        claim,
        effects=effects,
        margin=MARGIN,
        unit="log ratio",
        axis="step time",
        policy="no",
        finding=f"{fast:,.0f} examples/s at batch size {one.batch_size}, {slow:,.0f} at "
        f"{other.batch_size}",
        part=part,
        doubts=restless(effects, MARGIN),
    )


def knee_of(times: dict[int, StepTime]) -> Knee:
    """The knee of throughput by the first third of the rounds; the others judge.

    Raises:
        UntestableError: No size was timed, or throughput still grows where the sizes end: the
            largest one is the fastest, by more than matters.
    """
    from tfbatch.estimators.knee import find_knee  # imports SciPy

    sizes = sorted(times)
    if not sizes:
        raise UntestableError("a step of no batch size could be timed")
    rounds = list(zip(*(times[size].rounds for size in sizes), strict=True))
    knee = find_knee(sizes, rounds[: choosing_rounds(len(rounds))])
    if knee.open_ended and knee.throughput[-1] > math.exp(MARGIN) * max(
        knee.throughput[:-1], default=0.0
    ):
        raise UntestableError("the largest size is the fastest, there is no knee yet")
    return knee


def _knee(times: dict[int, StepTime]) -> Evidence:
    """Whether throughput grows up to the knee; where there is a knee is C3's first half."""
    claim = "best-size-times-devices"
    try:
        knee = knee_of(times).batch_size
    except UntestableError as error:
        return _untestable(claim, "knee", str(error))
    below = max((size for size in times if size * 2 <= knee), default=None)
    if below is None:
        return _untestable(claim, "knee", "the smallest size has the best throughput already")
    one, other = (
        dataclasses.replace(
            times[size], rounds=times[size].rounds[choosing_rounds(len(times[size].rounds)) :]
        )
        for size in (knee, below)
    )
    return _evidence(claim, "knee", one, other)


def _untestable(claim: str, part: str, why: str) -> Evidence:
    return Evidence(
        claim,
        effects=(),
        margin=MARGIN,
        unit="log ratio",
        axis="step time",
        policy="no",
        finding="",
        part=part,
        untestable=why,
    )
