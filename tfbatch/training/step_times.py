"""Seconds of one step for several batch sizes, each alone on the device, in interleaved rounds."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence

from tfbatch.callbacks import StopAfterSteps, TrainingClock
from tfbatch.configuration import Configuration
from tfbatch.training.program_cache import ProgramCache

ROUNDS = 5
FEWEST_ROUNDS = 3
_ROUND_SECONDS = 0.5
_WARMUP_EXECUTIONS = 4
_EXECUTION_SECONDS = 0.1
"""Callbacks between executions take a thousandth of that: no more steps need be executed at once."""
_MOST_EXECUTIONS = 200
_SEED = 1


@dataclasses.dataclass(frozen=True)
class StepTime:
    """What one step takes, input included.

    Attributes:
        batch_size: Examples in the step.
        seconds: Median over the rounds.
        rounds: The step's seconds in each round.
    """

    batch_size: int
    seconds: float
    rounds: tuple[float, ...]


def measure_step_times(
    programs: ProgramCache,
    configurations: Sequence[Configuration],
    *,
    sign_of_life: Callable[[], None],
    rounds: int = ROUNDS,
    seconds: float = math.inf,
) -> list[StepTime]:
    """Trains each configuration for half a second, in turn, round after round.

    Interleaving lets a drift of the machine fall on all alike. Tracing, allocation and the first
    batches of every round are left out.

    Args:
        programs: Data, model builder and traced programs.
        configurations: What to measure, at most one for each batch size; ascending if `seconds`
            is given.
        sign_of_life: Called now and then.
        rounds: Number of rounds.
        seconds: About what it may take: rounds are shortened, batch sizes from the first one on
            whose rounds would not fit are left out, and after three rounds no further one is begun
            when it is over.
    """
    deadline = time.perf_counter() + seconds
    round_seconds = min(_ROUND_SECONDS, seconds / (2 * rounds * len(configurations)))
    visited: list[_Visited] = []
    for configuration in configurations:
        most = deadline - time.perf_counter()
        if visited and _expected_seconds(visited, configuration, rounds, round_seconds) > most:
            break
        visited.append(_first_visit(programs, configuration))
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and time.perf_counter() > deadline:
            break
        for one in visited:
            sign_of_life()
            one.measure(programs, round_seconds)
    return [
        StepTime(one.configuration.batch_size, statistics.median(one.rounds), tuple(one.rounds))
        for one in visited
    ]


@dataclasses.dataclass
class _Visited:
    """A batch size's pace so far."""

    configuration: Configuration
    per_step: float
    derived_at_once: int
    around: float
    rounds: list[float] = dataclasses.field(default_factory=list)

    @property
    def at_once(self) -> int:
        """As many steps in an execution as training takes, but no more than are of use."""
        return max(1, min(self.derived_at_once, round(_EXECUTION_SECONDS / self.per_step)))

    def executions(self, seconds: float) -> tuple[int, int]:
        """How many warm up, and how many are measured, in a round of so many seconds."""
        one = self.per_step * self.at_once
        warmup = max(1, min(round(_ROUND_SECONDS / one), _WARMUP_EXECUTIONS))
        return warmup, max(2, min(round(seconds / one), _MOST_EXECUTIONS))

    def measure(self, programs: ProgramCache, seconds: float) -> None:
        warmup, executions = self.executions(seconds)
        self.per_step = _seconds_per_step(
            programs,
            self.configuration,
            executions=executions,
            warmup=warmup,
            at_once=self.at_once,
        )
        self.rounds.append(self.per_step)

    def round_seconds(self, seconds: float) -> float:
        return self.around + sum(self.executions(seconds)) * self.at_once * self.per_step


def _first_visit(programs: ProgramCache, configuration: Configuration) -> _Visited:
    """Traces, and sees how long a step takes: three steps, since one may take seconds."""
    started = time.perf_counter()
    per_step = _seconds_per_step(programs, configuration, executions=2, warmup=1, at_once=1)
    examples = programs.workload.data.num_examples("train")
    derived = programs.workload.derive(configuration, examples)
    around = max(0.0, time.perf_counter() - started - 3 * per_step)
    return _Visited(configuration, per_step, derived.steps_per_execution, around)


def _expected_seconds(
    visited: Sequence[_Visited], following: Configuration, rounds: int, round_seconds: float
) -> float:
    """Of all rounds with one batch size more, whose steps take at most in proportion longer."""
    last = visited[-1]
    around = min(one.around for one in visited)  # of the first, tracing is part
    growth = following.batch_size / last.configuration.batch_size
    candidate = dataclasses.replace(last, per_step=last.per_step * growth)
    sizes = [dataclasses.replace(one, around=around) for one in (*visited, candidate)]
    return 3 * candidate.per_step + rounds * sum(one.round_seconds(round_seconds) for one in sizes)


def _seconds_per_step(
    programs: ProgramCache,
    configuration: Configuration,
    *,
    executions: int,
    warmup: int,
    at_once: int,
) -> float:
    steps = at_once * (warmup + executions)
    examples = steps * configuration.batch_size
    model = programs.begin(
        configuration, total_examples=examples, seed=_SEED, steps_per_execution=at_once
    )
    clock = TrainingClock(warmup_executions=warmup)
    model.fit(
        programs.workload.data.training(
            batch_size=configuration.batch_size, seed=_SEED, num_examples=examples
        ),
        steps_per_epoch=steps,
        callbacks=[clock, StopAfterSteps(steps)],
        shuffle=False,
        verbose=0,
    )
    return clock.seconds / clock.steps
