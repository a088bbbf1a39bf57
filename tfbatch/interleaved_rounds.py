"""Times several kinds of steps in interleaved rounds, within a time that is given.

Interleaving lets a drift of the machine fall on all alike.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

FEWEST_ROUNDS = 3
_ROUND_SECONDS = 0.5
_WARMUP_EXECUTIONS = 4
_EXECUTION_SECONDS = 0.1
"""Callbacks between executions take a thousandth of that: no more steps at once are of use."""
_MOST_EXECUTIONS = 200


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
    """

    batch_size: int
    time_steps: TimeSteps
    most_at_once: int
    per_step: float
    around: float
    rounds: list[float] = dataclasses.field(default_factory=list)

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
    per_step = time_steps(executions=2, warmup=1, at_once=1)
    around = max(0.0, time.perf_counter() - started - 3 * per_step)
    return Paced(batch_size, time_steps, most_at_once, per_step, around)


def measure_in_rounds(
    batch_sizes: Sequence[int],
    visit: Callable[[int], Sequence[Paced]],
    *,
    rounds: int,
    heartbeat: Callable[[], None],
    seconds: float = math.inf,
    measured: Callable[[Paced], None] = lambda paced: None,
) -> list[Sequence[Paced]]:
    """Visits each batch size once, then measures all kinds of all sizes round after round.

    Args:
        batch_sizes: What to measure; ascending if `seconds` is given.
        visit: `visit(index)` looks at the kinds of steps of one batch size for the first time.
        rounds: Number of rounds.
        heartbeat: Called before each visit and each measurement.
        seconds: About what it may take: rounds are shortened, batch sizes from the first one on
            of which three rounds would not fit are left out, and after three rounds no further one
            is begun when it is over.
        measured: Called with each measurement as soon as it is made.

    Returns:
        The kinds of steps of each batch size that was measured.
    """
    deadline = time.perf_counter() + seconds
    visited: list[Sequence[Paced]] = []
    round_seconds = _ROUND_SECONDS
    for index, batch_size in enumerate(batch_sizes):
        if visited:
            each = seconds / (2 * rounds * len(batch_sizes) * len(visited[0]))
            round_seconds = min(_ROUND_SECONDS, each)
            fewest = min(rounds, FEWEST_ROUNDS)
            expected = _expected_seconds(visited, batch_size, fewest, round_seconds)
            if expected > deadline - time.perf_counter():
                break
        heartbeat()
        visited.append(visit(index))
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and time.perf_counter() > deadline:
            break
        for kinds in visited:
            measure_round(kinds, round_seconds, heartbeat=heartbeat, measured=measured)
    return visited


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


def _expected_seconds(
    visited: Sequence[Sequence[Paced]], batch_size: int, rounds: int, round_seconds: float
) -> float:
    """Of all rounds with one batch size more, whose steps take at most in proportion longer."""
    growth = batch_size / visited[-1][0].batch_size
    candidate = [
        dataclasses.replace(paced, per_step=paced.per_step * growth) for paced in visited[-1]
    ]
    look = 3 * sum(paced.per_step for paced in candidate)
    every = [paced for kinds in (*visited, candidate) for paced in kinds]
    # Of the first visits tracing is part: what comes around the steps is known from the second on.
    around = min((paced.around for kinds in visited[1:] for paced in kinds), default=0.0)
    alike = [dataclasses.replace(paced, around=around) for paced in every]
    return look + rounds * sum(paced.round_seconds(round_seconds) for paced in alike)
