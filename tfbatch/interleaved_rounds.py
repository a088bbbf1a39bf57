"""Times several kinds of steps in interleaved rounds, within a time that is given.

Interleaving lets a drift of the machine fall on all alike. The time is that of steps: tracing, and
XLA's compilation for each batch size, are priced, and come on top.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from tfbatch.estimators.knee_search import marks, next_size
from tfbatch.process.out_of_memory import is_out_of_memory

FEWEST_ROUNDS = 3
_LOOK_STEPS = 3
_LOOK_SHARE = 0.1
"""A second look at the smallest size, without tracing, takes at most this share of the time."""
_ROUND_STEPS = 3
"""Steps in the shortest round: one to warm up, two that are measured."""
_ROUND_SECONDS = 0.5
_WARMUP_EXECUTIONS = 4
_EXECUTION_SECONDS = 0.1
"""Callbacks between executions take a thousandth of that: no more steps at once are of use."""
_MOST_EXECUTIONS = 200
_SHARE_OF_ONE = 0.5
"""No single size takes more of the time, so that the sizes around the knee are measured too."""


class TimeSteps(Protocol):
    """Executes steps and says how long one takes."""

    def __call__(self, *, executions: int, warmup: int, at_once: int) -> float:
        """Seconds of a step.

        Args:
            executions: Executions that are measured.
            warmup: Executions before them.
            at_once: Steps in an execution.
        """


@dataclasses.dataclass
class Paced:
    """One kind of step of one batch size, and its pace so far.

    Attributes:
        batch_size: Examples in the step.
        time_steps: Times it.
        most_at_once: Most steps in an execution.
        per_step: Seconds of a step, when it was last measured.
        around: Seconds before and after the steps of a visit.
        rounds: Seconds of a step in each round.
        compilation: Seconds that the first visit took beside its steps and what comes around those
            of any other: tracing, and XLA's compilation for this batch size.
    """

    batch_size: int
    time_steps: TimeSteps
    most_at_once: int
    per_step: float
    around: float
    rounds: list[float] = dataclasses.field(default_factory=list)
    compilation: float = 0.0

    def at_once(self, seconds: float) -> int:
        """As many steps in an execution as are allowed, but no more than are of use."""
        one = min(_EXECUTION_SECONDS, seconds / _WARMUP_EXECUTIONS)
        return max(1, min(self.most_at_once, round(one / self.per_step)))

    def executions(self, seconds: float) -> tuple[int, int]:
        """How many warm up, and how many are measured, in a round of this many seconds."""
        one = self.per_step * self.at_once(seconds)
        warmup = max(1, min(round(seconds / one), _WARMUP_EXECUTIONS))
        return warmup, max(2, min(round(seconds / one), _MOST_EXECUTIONS))

    def measure(self, seconds: float) -> None:
        """One round."""
        warmup, executions = self.executions(seconds)
        self.per_step = self.time_steps(
            executions=executions, warmup=warmup, at_once=self.at_once(seconds)
        )
        self.rounds.append(self.per_step)

    def round_seconds(self, seconds: float) -> float:
        """What a round is expected to take."""
        return self.around + sum(self.executions(seconds)) * self.at_once(seconds) * self.per_step


def first_visit(batch_size: int, time_steps: TimeSteps, *, most_at_once: int) -> Paced:
    """Traces, and sees how long a step takes: three steps, since one may take seconds."""
    started = time.perf_counter()
    per_step = time_steps(executions=_LOOK_STEPS - 1, warmup=1, at_once=1)
    around = max(0.0, time.perf_counter() - started - _LOOK_STEPS * per_step)
    return Paced(batch_size, time_steps, most_at_once, per_step, around)


@dataclasses.dataclass(frozen=True)
class InRounds:
    """What was measured, and what was not.

    Attributes:
        visited: The kinds of steps of each batch size that was measured, in the order given.
        left_out: Batch sizes that the time did not allow for.
        too_large: Batch sizes that ran out of memory, or are larger than one that did.
    """

    visited: tuple[Sequence[Paced], ...]
    left_out: tuple[int, ...] = ()
    too_large: tuple[int, ...] = ()


def measure_in_rounds(
    batch_sizes: Sequence[int],
    visit: Callable[[int], Sequence[Paced]],
    *,
    rounds: int,
    heartbeat: Callable[[], None],
    seconds: float = math.inf,
    wanted: Sequence[int] = (),
    measured: Callable[[Paced], None] = lambda paced: None,
    refused: Callable[[], None] = lambda: None,
) -> InRounds:
    """Visits each batch size once, then measures all kinds of all sizes round after round.

    Args:
        batch_sizes: What to measure.
        visit: `visit(index)` looks at the kinds of steps of one batch size for the first time.
        rounds: Number of rounds.
        heartbeat: Called before each visit and each measurement.
        seconds: About what the steps may take, tracing and compilation not counted. Rounds are
            shortened; sizes between the ends and the middle are left out where three rounds of
            them would not fit; at the upper end, only those of which three rounds alone would
            take more than half of it. After three rounds no further one is begun when it is over.
        wanted: Sizes that are measured as the ends are.
        measured: Called with each measurement as soon as it is made.
        refused: Called where a visited size runs out of memory in a round, which has more steps at
            once than a visit: that size and all larger ones are then too large, and no program
            whose training has ended so is to be trusted.

    Raises:
        Exception: Not even the smallest size fits into memory.
    """
    look = _FirstLook(batch_sizes, visit, rounds=rounds, heartbeat=heartbeat, seconds=seconds)
    look.visit_all(wanted)
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and look.left() < 0:
            break
        look.measure_round(measured, refused)
    missing = [size for size in batch_sizes if size not in look.visited]
    limit = math.inf if look.too_large is None else look.too_large
    return InRounds(
        look.in_order(),
        tuple(size for size in missing if size < limit),
        tuple(size for size in missing if size >= limit),
    )


class _FirstLook:
    """Visits batch sizes from both ends, as long as the time allows for three rounds of each.

    Attributes:
        visited: The kinds of steps by batch size.
        too_large: The smallest size that ran out of memory, or None.
        round_seconds: Seconds of a round of one kind.
    """

    def __init__(
        self,
        batch_sizes: Sequence[int],
        visit: Callable[[int], Sequence[Paced]],
        *,
        rounds: int,
        heartbeat: Callable[[], None],
        seconds: float,
    ):
        self._batch_sizes, self._visit, self._heartbeat = batch_sizes, visit, heartbeat
        self._rounds, self._seconds = min(rounds, FEWEST_ROUNDS), seconds
        self._all_rounds = rounds
        self._began, self._not_counted = time.perf_counter(), 0.0
        self._around = math.inf
        self.visited: dict[int, Sequence[Paced]] = {}
        self.too_large: int | None = None
        self.round_seconds = _ROUND_SECONDS

    def visit_all(self, wanted: Sequence[int]) -> None:
        """Looks at each size that memory and time allow for."""
        sizes = sorted(self._batch_sizes)
        while True:
            seconds = {
                size: sum(paced.per_step for paced in kinds) for size, kinds in self.visited.items()
            }
            preferred = marks(sizes, max(seconds), wanted) if seconds else []
            size = next_size(
                sizes,
                seconds,
                affordable=functools.partial(self._affordable, preferred),
                wanted=wanted,
                too_large=self.too_large,
            )
            if size is None:
                return
            self._look_at(size)

    def measure_round(self, measured: Callable[[Paced], None], refused: Callable[[], None]) -> None:
        """Measures every visited size once, but those that memory is now seen not to allow for."""
        for kinds in self.in_order():
            size = kinds[0].batch_size
            if size not in self.visited:  # larger than one that ran out of memory in this round
                continue
            try:
                measure_round(
                    kinds, self.round_seconds, heartbeat=self._heartbeat, measured=measured
                )
            except Exception as error:
                if not self._is_too_large(size, error):
                    raise
                refused()

    def left(self) -> float:
        """Seconds that are left for steps."""
        return self._seconds - (time.perf_counter() - self._began - self._not_counted)

    def in_order(self) -> tuple[Sequence[Paced], ...]:
        """What was visited, in the order that was asked for."""
        return tuple(self.visited[size] for size in self._batch_sizes if size in self.visited)

    def _look_at(self, size: int) -> None:
        self._heartbeat()
        try:
            kinds = self._visit(self._batch_sizes.index(size))
        except Exception as error:
            if not self._is_too_large(size, error):
                raise
            return
        first = not self.visited
        self.visited[size] = kinds
        if first and self._seconds < math.inf:
            self._look_again(kinds)
        for paced in kinds:
            # Of a first visit tracing is part: what comes around any other is known from one size.
            around = min(paced.around, self._around)
            paced.compilation, paced.around = paced.around - around, around
            self._not_counted += paced.compilation

    def _is_too_large(self, size: int, error: Exception) -> bool:
        """Whether a size ran out of memory, which then drops it and all larger ones."""
        if not is_out_of_memory(error) or size == min(self._batch_sizes):
            return False
        self.too_large = size
        self.visited = {one: kinds for one, kinds in self.visited.items() if one < size}
        return True

    def _look_again(self, kinds: Sequence[Paced]) -> None:
        each = self._seconds / (2 * self._all_rounds * len(self._batch_sizes) * len(kinds))
        self.round_seconds = min(_ROUND_SECONDS, each)
        self._around = 0.0  # little, beside slow steps
        if _LOOK_STEPS * sum(paced.per_step for paced in kinds) <= _LOOK_SHARE * self._seconds:
            again = [
                first_visit(paced.batch_size, paced.time_steps, most_at_once=paced.most_at_once)
                for paced in kinds
            ]
            self._around = min(paced.around for paced in again)

    def _affordable(self, preferred: Sequence[int], size: int) -> bool:
        """Whether a size's steps can be measured in the time, by what is known of others'."""
        if self._seconds == math.inf:
            return True
        candidate = self._bounded(size)
        if size in preferred or size > max(self.visited):
            fewest = _LOOK_STEPS + self._rounds * _ROUND_STEPS
            least = fewest * sum(paced.per_step for paced in candidate)
            return least <= _SHARE_OF_ONE * self._seconds
        expected = _expected_seconds(
            [*self.visited.values()], candidate, self._rounds, self.round_seconds
        )
        return expected <= self.left()

    def _bounded(self, size: int) -> list[Paced]:
        """A size's steps: in proportion to a smaller size's at most, and at most a larger one's."""
        below = max(one for one in self.visited if one < size)
        larger = self.visited.get(min((one for one in self.visited if one > size), default=0))
        growth = size / below
        return [
            dataclasses.replace(
                paced,
                per_step=min(
                    paced.per_step * growth, larger[kind].per_step if larger else math.inf
                ),
            )
            for kind, paced in enumerate(self.visited[below])
        ]


def measure_round(
    kinds: Sequence[Paced],
    seconds: float,
    *,
    heartbeat: Callable[[], None] = lambda: None,
    measured: Callable[[Paced], None] = lambda paced: None,
) -> None:
    """Measures each kind of step once, for about so many seconds; see `measure_in_rounds`."""
    for paced in kinds:
        heartbeat()
        paced.measure(seconds)
        measured(paced)


def fewest_seconds(per_step: float, rounds: int) -> float:
    """What the shortest rounds of a step of this many seconds take."""
    return rounds * _ROUND_STEPS * per_step


def _expected_seconds(
    visited: Sequence[Sequence[Paced]],
    candidate: Sequence[Paced],
    rounds: int,
    round_seconds: float,
) -> float:
    """Of all rounds with one batch size more, and of the first look at it."""
    look = sum(paced.around + _LOOK_STEPS * paced.per_step for paced in candidate)
    every = [paced for kinds in (*visited, candidate) for paced in kinds]
    return look + rounds * sum(paced.round_seconds(round_seconds) for paced in every)
