"""Seconds of one step for several batch sizes, each alone on the device, in interleaved rounds."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfbatch.callbacks import StopAfterSteps, TrainingClock
from tfbatch.configuration import Configuration
from tfbatch.interleaved_rounds import Paced, first_visit, measure_in_rounds
from tfbatch.run_folder.durable import write_whole
from tfbatch.training.context import TaskContext
from tfbatch.training.data_place import training_stream
from tfbatch.training.evaluation import evaluate
from tfbatch.training.program import held_by
from tfbatch.training.program_cache import ProgramCache

if TYPE_CHECKING:
    import keras

_FIRST_LOOK_SECONDS = 0.3
ROUNDS = 5
SEED = 1


@dataclasses.dataclass(frozen=True)
class StepTime:
    """What one step takes, input included.

    Attributes:
        batch_size: Examples in the step.
        seconds: Median over the rounds.
        rounds: The step's seconds in each round.
        compilation: Seconds that came once, before the first step: tracing, and XLA's compilation
            for this batch size. No part of the others.
    """

    batch_size: int
    seconds: float
    rounds: tuple[float, ...]
    compilation: float = 0.0


@dataclasses.dataclass(frozen=True)
class StepTimes:
    """What was measured, and what was not.

    Attributes:
        times: The step times, in the order that was asked for.
        left_out: Batch sizes between measured ones that the time did not allow for, or at the upper
            end those whose steps alone would have taken longer than it.
        too_large: Batch sizes that ran out of memory, or are larger than one that did.
    """

    times: tuple[StepTime, ...]
    left_out: tuple[int, ...] = ()
    too_large: tuple[int, ...] = ()


def measure_step_times(
    programs: ProgramCache,
    configurations: Sequence[Configuration],
    *,
    heartbeat: Callable[[], None],
    rounds: int = ROUNDS,
    seconds: float = math.inf,
    wanted: Sequence[int] = (),
    measured: Callable[[int, Sequence[float]], None] = lambda batch_size, rounds: None,
) -> StepTimes:
    """Trains each configuration for half a second, in turn, round after round.

    Interleaving lets a drift of the machine fall on all alike. Tracing, allocation and the first
    batches of every round are left out.

    Args:
        programs: Data, model builder and traced programs.
        configurations: What to measure, at most one for each batch size.
        heartbeat: Called now and then.
        rounds: Number of rounds.
        seconds: See `measure_in_rounds`.
        wanted: See `measure_in_rounds`.
        measured: Called with a batch size and its rounds so far, after each round.
    """

    def visit(index: int) -> list[Paced]:
        configuration = configurations[index]
        time_steps = functools.partial(time_training, programs, configuration)
        most = steps_at_once(programs, configuration)
        with dropped_after_an_error(programs):
            return [first_visit(configuration.batch_size, time_steps, most_at_once=most)]

    found = measure_in_rounds(
        [configuration.batch_size for configuration in configurations],
        visit,
        rounds=rounds,
        heartbeat=heartbeat,
        seconds=seconds,
        wanted=wanted,
        measured=lambda paced: measured(paced.batch_size, paced.rounds),
        refused=programs.clear,
    )
    times = tuple(step_time_of(paced) for (paced,) in found.visited)
    return StepTimes(times, found.left_out, found.too_large)


@contextlib.contextmanager
def dropped_after_an_error(programs: ProgramCache) -> Iterator[None]:
    """Keeps no traced program whose training an exception has ended: it is not trusted."""
    try:
        yield
    except Exception:
        programs.clear()
        raise


class StepTimesFile:
    """Keeps step times on disk as they are measured, beside those of earlier sessions.

    Args:
        path: The file, `step_times.json` of a run folder.
        device: Where is measured, such as "CPU, 2 threads"; times of another device are dropped.
    """

    def __init__(self, path: Path, device: str):
        self._path = path
        self._content: dict[str, Any] = {"device": device, "seconds": {}}
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before["device"] == device:
                self._content = before

    def keep(self, batch_size: int, rounds: Sequence[float]) -> None:
        """Writes the seconds of a step in each round so far."""
        self._content["seconds"][str(batch_size)] = list(rounds)
        write_whole(self._path, json.dumps(self._content, indent=1))

    def keep_validation(self, seconds: float) -> None:
        """Writes the seconds of one evaluation on the validation split."""
        self._content["validation_seconds"] = seconds
        write_whole(self._path, json.dumps(self._content, indent=1))


def step_time_of(paced: Paced) -> StepTime:
    """The rounds of one kind of step."""
    return StepTime(
        paced.batch_size, statistics.median(paced.rounds), tuple(paced.rounds), paced.compilation
    )


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
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> float:
    """Seconds of a training step.

    Args:
        programs: Data, model builder and traced programs.
        configuration: What to train with.
        executions: Executions that are measured.
        warmup: Executions before them.
        at_once: Steps in an execution.
        cached: Whether every step gets the first batch, kept in memory: of the host, or of the
            device where the data is there.
        callbacks: Further ones, which only look.
    """
    steps = at_once * (warmup + executions)
    examples = steps * configuration.batch_size
    model = programs.begin(
        configuration, total_examples=examples, seed=SEED, steps_per_execution=at_once
    )
    clock = TrainingClock(warmup_executions=warmup, whole_batches=True)
    held = held_by(model)
    if cached and held is not None:
        batches = held.repeated(
            batch_size=configuration.batch_size, executions=warmup + executions, at_once=at_once
        )
    elif cached:
        batches = stream(programs, configuration.batch_size, steps, cached=True)
    else:
        batches = training_stream(
            model,
            programs.workload,
            batch_size=configuration.batch_size,
            seed=SEED,
            num_examples=examples,
        )
    model.fit(
        batches,
        steps_per_epoch=steps,
        callbacks=[clock, StopAfterSteps(steps), *callbacks],
        shuffle=False,
        verbose=0,
    )
    return clock.seconds / clock.steps


def stream(
    programs: ProgramCache, batch_size: int, steps: int, *, cached: bool = False
) -> tf.data.Dataset:
    """The host's training stream, or its first batch from memory in each step."""
    length = 1 if cached else steps
    batches = programs.workload.data.training(
        batch_size=batch_size, seed=SEED, num_examples=length * batch_size
    )
    return batches.cache().repeat(steps) if cached else batches


def keep_step_times(
    task: TaskContext, configurations: Sequence[Configuration], file: Path, device: str
) -> None:
    """Measures step times and one validation, and keeps each on disk as it is measured.

    Args:
        task: Model and data.
        configurations: What to measure, at most one for each batch size.
        file: Where they are kept; see StepTimesFile.
        device: What is measured on.

    Raises:
        StoppedError: A stop was requested.
    """
    kept = StepTimesFile(file, device)
    measure_step_times(
        task.programs, configurations, heartbeat=task.heartbeat_or_stop, measured=kept.keep
    )
    task.heartbeat_or_stop()
    kept.keep_validation(seconds_of_validation(task.programs, configurations[0]))


def seconds_of_first_steps(task: TaskContext, configuration: Configuration) -> float:
    """How long three steps take, building and tracing included."""
    task.heartbeat()
    started = time.perf_counter()
    time_training(task.programs, configuration, executions=2, warmup=1, at_once=1)
    return time.perf_counter() - started


def expected_trial_seconds(
    task: TaskContext,
    configuration: Configuration,
    *,
    total_examples: int,
    validation_seconds: float,
) -> float:
    """A prediction of a trial's seconds from a few of its steps, tracing left out.

    Args:
        task: Model and data.
        configuration: What to train with.
        total_examples: Length of the trial.
        validation_seconds: Seconds of one evaluation.

    Raises:
        StoppedError: A stop was requested.
    """
    programs = task.programs
    most = steps_at_once(programs, configuration)
    time_steps = functools.partial(time_training, programs, configuration)
    task.heartbeat_or_stop()
    paced = first_visit(configuration.batch_size, time_steps, most_at_once=most)
    task.heartbeat_or_stop()
    paced.measure(_FIRST_LOOK_SECONDS)
    derived = programs.workload.derive(configuration, total_examples)
    return derived.steps * paced.per_step + derived.epochs * validation_seconds


def seconds_of_validation(programs: ProgramCache, configuration: Configuration) -> float:
    """Seconds of one evaluation on the validation split, the second one: nothing is traced."""
    model = programs.begin(configuration, total_examples=1, seed=SEED)
    for _ in range(2):
        started = time.perf_counter()
        evaluate(model, programs.workload, "validation")
        seconds = time.perf_counter() - started
    return seconds
