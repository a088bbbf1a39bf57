"""Seconds of one step for several batch sizes, each alone on the device, in interleaved rounds."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfbatch.callbacks import StopAfterSteps, TrainingClock
from tfbatch.configuration import Configuration
from tfbatch.training.pacing import Paced, first_visit, measure_in_rounds
from tfbatch.training.program_cache import ProgramCache

ROUNDS = 5
SEED = 1


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
    heartbeat: Callable[[], None],
    rounds: int = ROUNDS,
    seconds: float = math.inf,
) -> list[StepTime]:
    """Trains each configuration for half a second, in turn, round after round.

    Interleaving lets a drift of the machine fall on all alike. Tracing, allocation and the first
    batches of every round are left out.

    Args:
        programs: Data, model builder and traced programs.
        configurations: What to measure, at most one for each batch size.
        heartbeat: Called now and then.
        rounds: Number of rounds.
        seconds: See `measure_in_rounds`.
    """

    def visit(index: int) -> list[Paced]:
        configuration = configurations[index]
        time_steps = functools.partial(time_training, programs, configuration)
        most = steps_at_once(programs, configuration)
        return [first_visit(configuration.batch_size, time_steps, most_at_once=most)]

    sizes = [configuration.batch_size for configuration in configurations]
    visited = measure_in_rounds(sizes, visit, rounds=rounds, heartbeat=heartbeat, seconds=seconds)
    return [step_time_of(paced) for (paced,) in visited]


def step_time_of(paced: Paced) -> StepTime:
    """The rounds of one kind of step."""
    return StepTime(paced.batch_size, statistics.median(paced.rounds), tuple(paced.rounds))


def steps_at_once(programs: ProgramCache, configuration: Configuration) -> int:
    """Steps in an execution of a training of a whole epoch."""
    examples = programs.workload.data.num_examples("train")
    return programs.workload.derive(configuration, examples).steps_per_execution


def time_training(
    programs: ProgramCache,
    configuration: Configuration,
    *,
    executions: int,
    warmup: int,
    at_once: int,
    cached: bool = False,
) -> float:
    """Seconds of a training step.

    Args:
        programs: Data, model builder and traced programs.
        configuration: What to train with.
        executions: Executions that are measured.
        warmup: Executions before them.
        at_once: Steps in an execution.
        cached: Whether every step gets the first batch, kept in memory.
    """
    steps = at_once * (warmup + executions)
    examples = steps * configuration.batch_size
    model = programs.begin(
        configuration, total_examples=examples, seed=SEED, steps_per_execution=at_once
    )
    clock = TrainingClock(warmup_executions=warmup)
    model.fit(
        stream(programs, configuration.batch_size, steps, cached=cached),
        steps_per_epoch=steps,
        callbacks=[clock, StopAfterSteps(steps)],
        shuffle=False,
        verbose=0,
    )
    return clock.seconds / clock.steps


def stream(
    programs: ProgramCache, batch_size: int, steps: int, *, cached: bool = False
) -> tf.data.Dataset:
    """The training stream, or its first batch from memory in each step."""
    length = 1 if cached else steps
    batches = programs.workload.data.training(
        batch_size=batch_size, seed=SEED, num_examples=length * batch_size
    )
    return batches.cache().repeat(steps) if cached else batches


def seconds_of_first_steps(
    programs: ProgramCache, configuration: Configuration, *, heartbeat: Callable[[], None]
) -> float:
    """How long three steps take, building and tracing included."""
    heartbeat()
    started = time.perf_counter()
    time_training(programs, configuration, executions=2, warmup=1, at_once=1)
    return time.perf_counter() - started
