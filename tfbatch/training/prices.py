"""What training costs at each batch size: measured alone, in short rounds, before a search."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tfbatch.answer.prices import MeasuredPrices
from tfbatch.configuration import Configuration
from tfbatch.errors import RecordError, RunFolderError, StoppedError
from tfbatch.interleaved_rounds import FEWEST_ROUNDS, Paced, first_visit, measure_round
from tfbatch.process.out_of_memory import is_out_of_memory
from tfbatch.run_folder.durable import is_disk_full
from tfbatch.training.context import TaskContext
from tfbatch.training.step_times import (
    SEED,
    StepTimesFile,
    seconds_of_validation,
    steps_at_once,
    time_training,
)
from tfbatch.training.trial import run_trial
from tfbatch.trial.outcome import TrialSpec

ROUND_SECONDS = 0.2
_SLOW_SECONDS = 2.0
"""A slower update is timed by its first look: three rounds of it would take half a minute."""
_EVERY_ERROR_OF_A_RUN = (StoppedError, RecordError, RunFolderError)


def in_order(sizes: Iterable[int]) -> list[int]:
    """The largest, the smallest, the middle one, then the others, largest first.

    Where the time ends early, the ends and the middle are known, and what lies between follows.
    """
    left = sorted(set(sizes))
    first = [left.pop()] if left else []
    first += [left.pop(0)] if left else []
    first += [left.pop(len(left) // 2)] if left else []
    return first + left[::-1]


def measure_prices(
    task: TaskContext,
    configurations: Sequence[Configuration],
    file: Path,
    device: str,
    *,
    seconds: float,
) -> MeasuredPrices:
    """Measures updates, an evaluation, and what a trial takes beside them.

    The step times are kept on disk as they are measured. A size that cannot be built, or that the
    time is over for, is missing.

    Args:
        task: Model and data.
        configurations: What to measure, at most one for each batch size, in the order of interest.
        file: Where step times are kept; see StepTimesFile.
        device: What is measured on.
        seconds: After so many, counted from when the first size is traced, no further size is
            looked at. Tracing and compilation for the others are not counted.

    Raises:
        StoppedError: A stop was requested.
        RecordError: The records are damaged.
        RunFolderError: The disk is full.
    """
    kept, looked_at, missing = StepTimesFile(file, device), {}, {}
    deadline = None
    for one in configurations:
        task.heartbeat_or_stop()
        if deadline is not None and time.perf_counter() > deadline:
            missing[one.batch_size] = "the time for it was over"
            continue
        found = _looked_at(task, one)
        if isinstance(found, str):
            deadline = deadline or time.perf_counter() + seconds
            missing[one.batch_size] = found
            continue
        # Tracing, and XLA's compilation for this size, push no other one out.
        deadline = time.perf_counter() + seconds if deadline is None else deadline + found.around
        looked_at[one.batch_size] = found
        kept.keep(one.batch_size, [found.per_step])
    quick = [paced for paced in looked_at.values() if paced.per_step < _SLOW_SECONDS]
    for _ in range(FEWEST_ROUNDS):
        measure_round(
            quick,
            ROUND_SECONDS,
            heartbeat=task.heartbeat_or_stop,
            measured=lambda paced: kept.keep(paced.batch_size, paced.rounds),
        )
    steps = {size: statistics.median(p.rounds or [p.per_step]) for size, p in looked_at.items()}
    if not steps:
        return MeasuredPrices(device=device, step_seconds={}, missing=missing)
    cheapest = min((c for c in configurations if c.batch_size in steps), key=lambda c: c.batch_size)
    task.heartbeat_or_stop()
    evaluation = seconds_of_validation(task.programs, cheapest)
    kept.keep_validation(evaluation)
    return MeasuredPrices(
        device=device,
        step_seconds=steps,
        missing=missing,
        evaluation_seconds=evaluation,
        start_seconds=_start_seconds(task, cheapest, evaluation),
    )


def _looked_at(task: TaskContext, configuration: Configuration) -> Paced | str:
    """The pace of a batch size; or why it has none, in a few words.

    Raises:
        StoppedError: A stop was requested.
        RecordError: The records are damaged.
        RunFolderError: The disk is full.
    """
    programs = task.programs
    try:
        return first_visit(
            configuration.batch_size,
            functools.partial(time_training, programs, configuration),
            most_at_once=steps_at_once(programs, configuration),
        )
    except _EVERY_ERROR_OF_A_RUN:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise
        programs.workload.data.raise_damage("train")
        programs.clear()  # what an exception leaves of a program is not trusted
        if is_out_of_memory(error):
            return "out of memory"
        return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _start_seconds(task: TaskContext, configuration: Configuration, evaluation: float) -> float:
    """What a trial takes beside updates and evaluations: the second one of a single update."""
    size = configuration.batch_size
    examples = task.programs.workload.data.num_examples("train")
    with tempfile.TemporaryDirectory() as folder:
        for number in (1, 2):
            task.heartbeat_or_stop()
            spec = TrialSpec(
                "price",
                "search",
                SEED,
                configuration,
                total_examples=size,
                num_examples=examples,
                replicas=task.programs.workload.replicas,
                log_dir=Path(folder) / str(number),
                weights_file=Path(folder) / f"{number}.weights.h5",
            )
            outcome = run_trial(task.programs, spec)
    return max(outcome.seconds - outcome.training_seconds - evaluation, 0.0)
