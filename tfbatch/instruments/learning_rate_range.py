"""The learning-rate range test: which rates a short training stands, over several seeds."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbatch.callbacks import StopAfterSteps
from tfbatch.configuration import Configuration
from tfbatch.estimators.range_test import DIVERGED, read_range_test
from tfbatch.gradients import untouched
from tfbatch.instruments import Bench
from tfbatch.instruments.learning_rate_range_reading import (
    ConstantRate,
    RangeReading,
    RangeSettings,
)
from tfbatch.training.context import TaskContext
from tfbatch.training.program_cache import ProgramCache

HEADING = "Learning-rate range test"
ORDER = 50
SHARE = 3.0
_FIRST = 5
_LARGE = 128
_MOST_CONSTANT = 10
_FOR_SEEDS = 0.5
"""Share of the time that the seeds may take, so that a limit is found too."""


def measure_learning_rate_range(
    task: TaskContext, configuration: Configuration, settings: RangeSettings
) -> RangeReading:
    """Sweeps in the process that trains: the traced program's learning-rate table is replaced.

    A growing rate is soon past each value, and a training diverges below where the sweep does. So
    whole sweeps at constant rates follow, from there on downwards by halves, with the first seed.

    Weights, optimizer, moving statistics and random generators are put back after each sweep.

    Args:
        task: Model and data.
        configuration: Optimizer and batch size; its learning rate and schedule are out of effect.
        settings: The sweep.

    Raises:
        InputError: Weights that make no finite loss at the lowest rate.
    """
    started, programs = time.perf_counter(), task.programs
    rates = settings.rates()
    curves: list[list[float]] = []
    for seed in settings.seeds:
        if curves and time.perf_counter() - started > _FOR_SEEDS * settings.seconds * len(
            curves
        ) / (len(curves) + 1):
            break
        curves.append(_sweep(programs, configuration, rates, seed, task.heartbeat))
    result = read_range_test(rates, curves)

    def train(rate: float) -> list[float]:
        constant = np.full(len(rates), rate)
        return _sweep(programs, configuration, constant, settings.seeds[0], task.heartbeat)

    def has_time(runs: int) -> bool:
        spent = time.perf_counter() - started
        return spent * (1 + 1 / (len(curves) + runs)) < settings.seconds

    return RangeReading(
        batch_size=configuration.batch_size,
        learning_rates=tuple(rates.tolist()),
        losses=tuple(map(tuple, curves)),
        result=result,
        constant=()
        if result.learning_rate is None or result.diverges_at is None
        else constant_rates(
            train,
            first_loss=float(np.median([curve[:_FIRST] for curve in curves])),
            above=result.diverges_at,
            has_time=has_time,
        ),
        seeds=settings.seeds[: len(curves)],
        seconds=time.perf_counter() - started,
    )


def constant_rates(
    train: Callable[[float], list[float]],
    *,
    first_loss: float,
    above: float,
    has_time: Callable[[int], bool],
) -> tuple[ConstantRate, ...]:
    """Halves the rate until it holds for a whole sweep, then on while the final loss falls.

    Args:
        train: The losses of a sweep at one rate; NaN from where it diverged.
        first_loss: Loss of the untrained model.
        above: Where the growing rate diverged.
        has_time: Whether there is time for another sweep after this number of them.
    """
    found: list[ConstantRate] = []
    rate = above
    while len(found) < _MOST_CONSTANT and has_time(len(found)):
        rate /= 2
        losses = np.asarray(train(rate))
        end = float(np.median(losses[-max(len(losses) // 10, 1) :]))
        held = bool(np.isfinite(losses).all()) and end < first_loss
        before = found[-1] if found else None
        found.append(ConstantRate(rate, end if held else math.nan, held))
        if before is not None and before.held and not end < before.loss:
            break
    return tuple(found)


def _sweep(
    programs: ProgramCache,
    configuration: Configuration,
    rates: np.ndarray,
    seed: int,
    heartbeat: Callable[[], None],
) -> list[float]:
    """A loss for each rate, NaN from where it diverged."""
    steps, examples = len(rates), len(rates) * configuration.batch_size
    workload = programs.workload
    with _python_generators_untouched():
        model = programs.begin(
            configuration, total_examples=examples, seed=seed, steps_per_execution=1
        )
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        table = optimizer._learning_rate
        own_rates = tf.identity(table._table)
        watcher = _Losses(heartbeat)
        with untouched(model, weights=True):
            table.assign(tf.constant(rates, tf.float32))
            try:
                model.fit(
                    workload.data.training(
                        batch_size=configuration.batch_size, seed=seed, num_examples=examples
                    ),
                    steps_per_epoch=steps,
                    class_weight=workload.class_weight,
                    callbacks=[watcher, StopAfterSteps(steps)],
                    shuffle=False,
                    verbose=0,
                )
            finally:
                table.assign(own_rates)
                model.stop_training = False
    return watcher.losses + [math.nan] * (steps - len(watcher.losses))


class _Losses(keras.callbacks.Callback):  # type: ignore[misc]
    """Each update's own loss; ends the sweep when it has diverged."""

    def __init__(self, heartbeat: Callable[[], None]):
        super().__init__()
        self.losses: list[float] = []
        self._heartbeat = heartbeat

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.reset_metrics()  # the running mean is then the loss of this update alone

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(float((logs or {})["loss"]))
        self._heartbeat()
        bar = DIVERGED * float(np.median(self.losses[:_FIRST]))
        lasting = len(self.losses) >= _FIRST and bar > 0 and min(self.losses[-3:]) > bar
        if lasting or not math.isfinite(self.losses[-1]):
            self.model.stop_training = True


@contextmanager
def _python_generators_untouched() -> Iterator[None]:
    """A build seeds Python's and NumPy's global generators."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> RangeReading:
    """See tfbatch.instruments.Probe."""
    size = min(batch_sizes, key=lambda size: abs(math.log(size / _LARGE)))
    settings = RangeSettings(seconds=seconds)
    return bench.measure(measure_learning_rate_range, bench.configuration(size), settings)
