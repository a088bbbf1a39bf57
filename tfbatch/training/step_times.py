"""Seconds of one step for several batch sizes, each alone on the device, in interleaved rounds."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from tfbatch.callbacks import StopAfterSteps, TrainingClock
from tfbatch.configuration import Configuration
from tfbatch.training.program_cache import ProgramCache

ROUNDS = 5
_ROUND_SECONDS = 0.5
_WARMUP_EXECUTIONS = 4
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
) -> list[StepTime]:
    """Trains each configuration for half a second, in turn, round after round.

    Interleaving lets a drift of the machine fall on all alike. Tracing, allocation and the first
    batches of every round are left out.

    Args:
        programs: Data, model builder and traced programs.
        configurations: What to measure, at most one for each batch size.
        sign_of_life: Called now and then.
        rounds: Number of rounds.
    """
    first = [_seconds_per_step(programs, c, executions=2) for c in configurations]
    times: list[list[float]] = [[] for _ in configurations]
    for _ in range(rounds):
        for index, configuration in enumerate(configurations):
            sign_of_life()
            per_execution = first[index] * _executed_at_once(programs, configuration)
            executions = max(2, min(round(_ROUND_SECONDS / per_execution), 200))
            times[index].append(_seconds_per_step(programs, configuration, executions=executions))
    return [
        StepTime(configuration.batch_size, statistics.median(own), tuple(own))
        for configuration, own in zip(configurations, times, strict=True)
    ]


def _executed_at_once(programs: ProgramCache, configuration: Configuration) -> int:
    examples = programs.workload.data.num_examples("train")
    return programs.workload.derive(configuration, examples).steps_per_execution


def _seconds_per_step(
    programs: ProgramCache, configuration: Configuration, *, executions: int
) -> float:
    at_once = _executed_at_once(programs, configuration)
    steps = at_once * (_WARMUP_EXECUTIONS + executions)
    examples = steps * configuration.batch_size
    model = programs.begin(
        configuration, total_examples=examples, seed=_SEED, steps_per_execution=at_once
    )
    clock = TrainingClock(warmup_executions=_WARMUP_EXECUTIONS)
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
