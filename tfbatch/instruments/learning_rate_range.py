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
from tfbatch.instruments.learning_rate_range_reading import RangeReading, RangeSettings
from tfbatch.training.program_cache import ProgramCache

HEADING = "Learning-rate range test"
ORDER = 50
SHARE = 3.0
_FIRST = 5
_LARGE = 128


def measure_learning_rate_range(
    programs: ProgramCache,
    configuration: Configuration,
    settings: RangeSettings,
    *,
    heartbeat: Callable[[], None],
) -> RangeReading:
    """Sweeps in the process that trains: the traced program's learning-rate table is replaced.

    Weights, optimizer, moving statistics and random generators are put back after each seed.

    Args:
        programs: Data, model builder and traced programs.
        configuration: Optimizer and batch size; its learning rate and schedule are out of effect.
        settings: The sweep.
        heartbeat: Called after each update.

    Raises:
        InputError: Weights that make no finite loss at the lowest rate.
    """
    started = time.perf_counter()
    rates = settings.rates()
    curves: list[list[float]] = []
    for seed in settings.seeds:
        if curves and time.perf_counter() - started > settings.seconds * len(curves) / (
            len(curves) + 1
        ):
            break
        curves.append(_sweep(programs, configuration, rates, seed, heartbeat))
    return RangeReading(
        batch_size=configuration.batch_size,
        learning_rates=tuple(rates.tolist()),
        losses=tuple(map(tuple, curves)),
        result=read_range_test(rates, curves),
        seeds=settings.seeds[: len(curves)],
        seconds=time.perf_counter() - started,
    )


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
    found: RangeReading = bench.measure(
        measure_learning_rate_range, bench.configuration(size), settings
    )
    return found
