"""What a worker does while trainings side by side on one GPU are measured."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import keras

from tfbatch.configuration import Configuration
from tfbatch.estimators.side_by_side import Passages
from tfbatch.interleaved_rounds import Paced, first_visit
from tfbatch.process.memory import own_resident
from tfbatch.training.context import TaskContext
from tfbatch.training.prices import ROUND_SECONDS
from tfbatch.training.step_times import (
    dropped_after_an_error,
    steps_at_once,
    time_training,
)

_ROUNDS = 2
"""Steps one by one are slower than many in an execution: of how many follows from the first."""


@dataclasses.dataclass(frozen=True)
class Look:
    """What a worker has found before it is measured.

    Attributes:
        per_step: Seconds of an update of the baseline.
        around: Seconds that a training takes before and after its updates, once it is traced.
        resident_bytes: What the process alone holds of the host's memory.
    """

    per_step: float
    around: float
    resident_bytes: int


def look_at_baseline(task: TaskContext, *, baseline: Configuration, largest: int) -> Look:
    """Trains for a few updates: with the largest batch, whose memory is kept, then the baseline.

    Args:
        task: Model and data.
        baseline: What is measured then.
        largest: The largest batch size that trials may have.

    Raises:
        StoppedError: A stop was requested.
        Exception: Whatever training raises, such as a lack of memory.
    """
    with dropped_after_an_error(task.programs):
        if largest > baseline.batch_size:
            task.heartbeat_or_stop()
            _visit(task, baseline.model_copy(update={"batch_size": largest}))
        task.heartbeat_or_stop()
        _visit(task, baseline)  # traces
        task.heartbeat_or_stop()
        found = _visit(task, baseline)
        for _ in range(_ROUNDS):
            task.heartbeat_or_stop()
            found.measure(ROUND_SECONDS)
    return Look(found.per_step, found.around, own_resident())


def train_beside_others(
    task: TaskContext, *, baseline: Configuration, per_step: float, seconds: float
) -> Passages:
    """Trains the baseline for some seconds in one piece, and says when it was where.

    Args:
        task: Model and data.
        baseline: What is trained.
        per_step: About the seconds of an update.
        seconds: About how long it is measured, at that pace.

    Raises:
        StoppedError: A stop was requested.
        Exception: Whatever training raises.
    """
    task.heartbeat_or_stop()
    most = steps_at_once(task.programs, baseline)
    time_steps = functools.partial(time_training, task.programs, baseline)
    paced = Paced(baseline.batch_size, time_steps, most, per_step, around=0.0)
    warmup, _ = paced.executions(seconds)
    at_once = paced.at_once(seconds)
    watch = _Watch()
    with dropped_after_an_error(task.programs):
        time_training(
            task.programs,
            baseline,
            executions=max(2, round(seconds / (at_once * per_step))),
            warmup=warmup,
            at_once=at_once,
            callbacks=[watch],
        )
    return Passages(tuple(watch.times[warmup - 1 :]), at_once * baseline.batch_size)


def _visit(task: TaskContext, configuration: Configuration) -> Paced:
    return first_visit(
        configuration.batch_size,
        functools.partial(time_training, task.programs, configuration),
        most_at_once=steps_at_once(task.programs, configuration),
    )


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes when each execution ended, on the clock that the machine's processes share."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """See Keras."""
        self.times.append(time.monotonic())
