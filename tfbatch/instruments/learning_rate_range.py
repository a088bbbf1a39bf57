"""The learning-rate range test: which rates a short training stands, over several seeds."""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import Unpack

from tfbatch.bench import Bench
from tfbatch.callbacks import StopAfterSteps
from tfbatch.callbacks._sweep import SweptLosses
from tfbatch.charts import Chart, Mark, Series
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.range_test import (
    FEWEST_STEPS,
    ConstantRate,
    ConstantRates,
    RangeTest,
    best_rate,
    doubts_of_constant_rates,
    largest_held_rate,
    read_range_test,
)
from tfbatch.gradients import state_restored
from tfbatch.instruments.open_bench import BenchOptions, open_bench
from tfbatch.instruments.weights_and_examples import size_of_updates
from tfbatch.loss_scaling import unwrapped
from tfbatch.search.progress import progress_lines
from tfbatch.training.class_weights import weighted_by_class
from tfbatch.training.context import TaskContext
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.trial import Heartbeat

HEADING = "Learning-rate range test"
ORDER = 50
SHARE = 3.0
_FIRST = 5
_STEPS = 100
_LARGE = 128
_FOR_SEEDS = 0.5
"""Share of the time that the seeds may take, so that a limit is found too."""
_SHOWN = 5.0
"""The chart shows losses up to this many times the first one."""


def learning_rate_range(
    build_model: Callable[..., keras.Model] | str,
    data: object,
    *,
    batch_size: int | None = None,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int | None = None,
    examples: int | None = None,
    seeds: Sequence[int] = (1, 2, 3),
    verbose: int = 1,
    **options: Unpack[BenchOptions],
) -> RangeReading:
    """Runs a learning-rate range test (Smith 2015, arXiv 1506.01186) at a batch size.

        rate(step) = lowest * (highest / lowest) ** (step / (steps - 1))

    Each seed builds the model anew; a sweep stops when it diverges. Several rules read the mean
    curve, and `doubts` says why not to trust what is found.

    Example:
        ```python
        found = tfbatch.learning_rate_range("small_cnn", "digits", batch_size=64)
        print(found.learning_rate, found.doubts)
        ```

    Args:
        build_model: See find_batch_size.
        data: The data, see find_batch_size.
        batch_size: Examples in an update. Default: 128, or all examples.
        lowest: Learning rate of the first update.
        highest: Learning rate of the last one.
        steps: Updates of a sweep, at least 20. Default: 100.
        examples: Examples of a sweep instead, so that different batch sizes see as many; at least
            20 updates of them.
        seeds: A sweep each.
        verbose: 0 prints nothing.
        **options: Of model and data, see open_bench: optimizer, baseline, loss, metrics,
            class_weight, model_arguments, data_dir, image_size, records_dir.

    Raises:
        InputError: Something asked for cannot be used.
        DataError: Data absent or damaged.
    """
    if steps is not None and examples is not None:
        raise InputError(f"`steps` or `examples` must be None. Received: {steps=}, {examples=}.")
    progress = progress_lines(verbose)
    with open_bench(build_model, data, progress=progress, **options) as bench:
        size = size_of_updates(bench, batch_size)
        count = _number_of_steps(steps, examples, batch_size=size)
        settings = RangeSettings(lowest, highest, steps=count, seeds=tuple(seeds))
        found = bench.measure(measure_learning_rate_range, bench.configuration(size), settings)
        progress.say(found.conclusion())
    return found


def _number_of_steps(steps: int | None, examples: int | None, *, batch_size: int) -> int:
    """Updates of a sweep.

    Raises:
        InputError: Fewer examples than the fewest updates need.
    """
    if examples is None:
        return _STEPS if steps is None else steps
    fewest = FEWEST_STEPS * batch_size
    if examples < fewest:
        raise InputError(
            f"`examples` must be at least {FEWEST_STEPS} updates of batch_size={batch_size}: "
            f"{fewest:,}. Received: {examples}. Give more, or a smaller `batch_size`."
        )
    return examples // batch_size


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> RangeReading:
    """See tfbatch.instruments.Instrument."""
    size = min(batch_sizes, key=lambda size: abs(math.log(size / _LARGE)))
    settings = RangeSettings(seconds=seconds)
    return bench.measure(measure_learning_rate_range, bench.configuration(size), settings)


@dataclasses.dataclass(frozen=True)
class RangeSettings:
    """The sweep.

    Attributes:
        lowest: Learning rate of the first update.
        highest: Learning rate of the last one.
        steps: Updates of a sweep, at least 20.
        seeds: One sweep each, from its own initial weights and with its own order.
        seconds: No sweep begins, of a seed or at a constant rate, that is not expected to end in
            the time; the seeds, but the first, take half of it at most.
    """

    lowest: float = 1e-6
    highest: float = 10.0
    steps: int = _STEPS
    seeds: tuple[int, ...] = (1, 2, 3)
    seconds: float = math.inf

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest < math.inf:
            raise InputError(
                "`lowest` must be > 0 and less than `highest`. Received: "
                f"{self.lowest} and {self.highest}."
            )
        if self.steps < FEWEST_STEPS:
            raise InputError(f"`steps` must be >= {FEWEST_STEPS}. Received: {self.steps}.")
        if not self.seeds:
            raise InputError("`seeds` must hold at least one seed. Received: none.")

    def rates(self) -> np.ndarray:
        """rate(step) = lowest * (highest / lowest) ** (step / (steps - 1))."""
        return np.geomspace(self.lowest, self.highest, self.steps)


@dataclasses.dataclass(frozen=True)
class RangeReading:
    """A learning-rate range test.

    Attributes:
        batch_size: Examples in an update.
        learning_rates: [steps].
        losses: [seeds][steps] each update's loss, NaN from where a sweep was stopped.
        result: What the rules suggest, and why not to trust it.
        seeds: The seeds that were run.
        seconds: What it took.
        constant: Whole sweeps at constant rates, descending by halves from where the sweep
            diverged or climbed; empty without a descent, an end of it, or without time.
    """

    batch_size: int
    learning_rates: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    result: RangeTest
    seeds: tuple[int, ...]
    seconds: float
    constant: tuple[ConstantRate, ...] = ()

    @property
    def learning_rate(self) -> float | None:
        """The suggestion; None without a descent.

        The constant rate whose loss ended lowest, else the median of the rules; None where no
        constant rate held and one of them is as small as that median.
        """
        return best_rate(self.result, self.constant)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why not to rely on it: of the curve, and of constant rates of which none held."""
        return (*self.result.doubts, *doubts_of_constant_rates(self.constant))

    @property
    def limit(self) -> float | None:
        """The largest rate that held for a whole sweep; None if none was found."""
        return largest_held_rate(self.constant)

    def columns(self) -> tuple[str, ...]:
        """See tfbatch.instruments.Reading."""
        return ("rule", "learning rate", "by seed")

    def rows(self) -> list[tuple[str, ...]]:
        """See tfbatch.instruments.Reading."""
        return [
            (
                suggestion.rule,
                f"{suggestion.learning_rate:.3g}" if suggestion.learning_rate else "none",
                ", ".join(f"{rate:.2g}" for rate in suggestion.by_seed),
            )
            for suggestion in self.result.suggestions
        ] + [
            (
                "constant rate",
                f"{one.learning_rate:.3g}",
                f"ends at a loss of {one.loss:.3g}" if one.held else "does not hold",
            )
            for one in self.constant
        ]

    def conclusion(self) -> str:
        """See tfbatch.instruments.Reading."""
        result = self.result
        found = (
            "suggests no learning rate"
            if self.learning_rate is None
            else f"suggests a learning rate of {self.learning_rate:.3g}"
        )
        if self.limit is not None:
            found += (
                f", whose {len(self.learning_rates)} updates at a constant rate ended lowest, "
                f"finds {self.limit:.3g} to be the largest rate that holds for a whole sweep,"
            )
        end = (
            f"diverges at {result.diverges_at:.3g}, above what training tolerates"
            if result.diverges_at
            else f"does not diverge up to {self.learning_rates[-1]:.3g}"
        )
        of = "Do not trust it" if self.limit is None else "Do not trust the curve alone"
        doubts = f" {of}: {'; '.join(self.doubts)}." if self.doubts else ""
        return (
            f"The range test at batch size {self.batch_size} ({len(self.seeds)} seeds, "
            f"{len(self.learning_rates)} updates) {found} and {end}; it is where to look, and no "
            f"measurement of a full training.{doubts}"
        )

    def charts(self) -> tuple[Chart, ...]:
        """See tfbatch.instruments.Reading."""
        curves = [
            Series(f"seed {seed}", self.learning_rates, losses, kind="line")
            for seed, losses in zip(self.seeds, self.losses, strict=True)
        ]
        smoothed = self.result.smoothed
        mean = Series("mean, smoothed", self.learning_rates[: len(smoothed)], smoothed, kind="line")
        rate = self.learning_rate
        marks = (Mark(rate, f"suggested {rate:.2g}"),) if rate else ()
        return (
            Chart(
                "Learning-rate range test",
                "learning rate",
                "loss",
                (*curves, mean),
                marks=marks,
                y_limits=self._limits(),
            ),
        )

    def _limits(self) -> tuple[float, float] | None:
        """From the lowest loss to a few times the first: a divergence may reach 1e23."""
        known = [loss for losses in self.losses for loss in losses if math.isfinite(loss)]
        above = [loss for loss in known if loss > 0]
        first = float(np.median([losses[0] for losses in self.losses]))
        if not above or not first > 0:
            return None
        return min(min(above), first) / 1.2, _SHOWN * first

    def __str__(self) -> str:
        """The conclusion."""
        return self.conclusion()


def measure_learning_rate_range(
    task: TaskContext, configuration: Configuration, settings: RangeSettings
) -> RangeReading:
    """Sweeps in the process that trains: the traced program's learning-rate table is replaced.

    A growing rate is soon past each value, and a training diverges below where the sweep does. So
    whole sweeps at constant rates follow, from there (or from where the loss climbs) downwards by
    halves, with the first seed.

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
        if curves and not _has_time(started, len(curves), _FOR_SEEDS * settings.seconds):
            break
        curves.append(_sweep(programs, configuration, rates, seed, task.heartbeat))
    result = read_range_test(rates, curves)

    constant = ConstantRates(
        above=result.ends_at or math.nan,
        first_loss=float(np.median([curve[:_FIRST] for curve in curves])),
    )
    while (
        result.learning_rate is not None
        and result.ends_at is not None
        and (rate := constant.next_rate()) is not None
        and _has_time(started, len(curves) + len(constant.found), settings.seconds)
    ):
        rates_of_it = np.full(len(rates), rate)
        constant.add(
            _sweep(programs, configuration, rates_of_it, settings.seeds[0], task.heartbeat)
        )
    return RangeReading(
        batch_size=configuration.batch_size,
        learning_rates=tuple(rates.tolist()),
        losses=tuple(map(tuple, curves)),
        result=result,
        constant=constant.found,
        seeds=settings.seeds[: len(curves)],
        seconds=time.perf_counter() - started,
    )


def _has_time(started: float, sweeps: int, seconds: float) -> bool:
    """Whether another sweep fits, if it takes as long as these did on average."""
    return (time.perf_counter() - started) * (1 + 1 / sweeps) < seconds


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
        optimizer = unwrapped(model.optimizer)
        table = optimizer._learning_rate
        own_rates = tf.identity(table._table)
        watcher = SweptLosses()
        stream = workload.data.training(
            batch_size=configuration.batch_size, seed=seed, num_examples=examples
        )
        with state_restored(model, weights=True):
            table.assign(tf.constant(rates, tf.float32))
            try:
                model.fit(
                    weighted_by_class(stream, workload.class_weight),
                    steps_per_epoch=steps,
                    callbacks=[
                        watcher,
                        StopAfterSteps(steps),
                        Heartbeat(lambda done, total, within: heartbeat()),
                    ],
                    shuffle=False,
                    verbose=0,
                )
            finally:
                table.assign(own_rates)
                model.stop_training = False
    return watcher.losses + [math.nan] * (steps - len(watcher.losses))


@contextmanager
def _python_generators_untouched() -> Iterator[None]:
    """A build seeds Python's and NumPy's global generators."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
