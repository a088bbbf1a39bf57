"""A learning-rate range test: the rate grows exponentially, update by update, until it diverges.

Smith 2015 (arXiv 1506.01186). Nothing of it is left: each seed trains a build of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbatch.charts import Chart, Mark, Series
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.range_test import FEWEST_STEPS, RangeTest, read_range_test
from tfbatch.instruments import Bench
from tfbatch.training.own_optimizer import unwrapped
from tfbatch.training.program_cache import ProgramCache

HEADING = "Learning-rate range test"
ORDER = 50
SHARE = 1.5
STEPS = 100
SEEDS = 3
DECADES = 3.0
"""The sweep begins so many decades below the configuration's rate and ends so many above it."""
_BLOWN_UP = 10.0
_SMALLEST_LOSS = 1e-3


@dataclasses.dataclass(frozen=True)
class LearningRateRange:
    """What a range test has shown.

    Attributes:
        batch_size: Examples in each update.
        learning_rates: The rate of each update.
        losses: [seeds][updates] loss of each batch before its update; NaN after it diverged.
        result: Every rule's suggestion, where it diverges, and why not to trust it.
    """

    batch_size: int
    learning_rates: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    result: RangeTest

    @property
    def learning_rate(self) -> float | None:
        """The suggestion, or None."""
        return self.result.learning_rate

    def columns(self) -> tuple[str, ...]:
        """See tfbatch.instruments.Reading."""
        return ("rule", "learning rate", "by seed")

    def rows(self) -> list[tuple[str, ...]]:
        """See tfbatch.instruments.Reading."""
        return [
            (
                suggestion.rule,
                "none" if suggestion.learning_rate is None else f"{suggestion.learning_rate:.3g}",
                ", ".join("none" if math.isnan(r) else f"{r:.2g}" for r in suggestion.by_seed),
            )
            for suggestion in self.result.suggestions
        ]

    def conclusion(self) -> str:
        """See tfbatch.instruments.Reading."""
        found = self.result
        what = (
            "the range test suggests no learning rate"
            if found.learning_rate is None
            else f"the range test suggests a learning rate of {found.learning_rate:.2g}"
        )
        end = (
            "it never diverged"
            if found.diverges_at is None
            else (f"it diverged at {found.diverges_at:.2g}")
        )
        doubts = f"; do not trust it: {'; '.join(found.doubts)}" if found.doubts else ""
        return f"At batch size {self.batch_size} {what}; {end}{doubts}."

    def charts(self) -> tuple[Chart, ...]:
        """See tfbatch.instruments.Reading."""
        seeds = [
            Series(f"seed {number}", self.learning_rates, losses, kind="line")
            for number, losses in enumerate(self.losses, start=1)
        ]
        smoothed = self.result.smoothed
        mean = Series("smoothed mean", self.learning_rates[: len(smoothed)], smoothed, kind="line")
        rate = self.result.learning_rate
        marks = () if rate is None else (Mark(rate, f"suggested {rate:.2g}"),)
        return (Chart(HEADING, "learning rate", "training loss", (*seeds, mean), marks),)


def measure_learning_rate_range(
    programs: ProgramCache,
    configuration: Configuration,
    lowest: float,
    highest: float,
    steps: int,
    seeds: int,
    *,
    sign_of_life: Callable[[], None],
) -> LearningRateRange:
    """Sweeps the learning rate once for each seed.

        def learning_rate(step):
            return lowest * (highest / lowest) ** (step / (steps - 1))

    Args:
        programs: Data, model builder and traced programs.
        configuration: Batch size and optimizer; its rate and schedule are not used.
        lowest: Rate of the first update.
        highest: Rate of the last one.
        steps: Number of updates, at least 20.
        seeds: Number of sweeps, each with weights and an order of its own.
        sign_of_life: Called now and then.

    Raises:
        InputError: A range or a number that cannot be used.
    """
    if not 0 < lowest < highest or steps < FEWEST_STEPS or seeds < 1:
        raise InputError(
            f"`0 < lowest < highest`, `steps` >= {FEWEST_STEPS} and `seeds` >= 1 must hold. "
            f"Received: {lowest=}, {highest=}, {steps=}, {seeds=}."
        )
    rates = np.geomspace(lowest, highest, steps)
    batch_size = configuration.batch_size
    losses = []
    for seed in range(1, seeds + 1):
        sign_of_life()
        model = programs.begin(
            configuration,
            total_examples=steps * batch_size,
            seed=seed,
            steps_per_execution=1,
        )
        # The program reads its rate from a table: no other trace is needed.
        unwrapped(model.optimizer)._learning_rate.assign(tf.constant(rates, tf.float32))
        record = _LossOfEachBatch(steps)
        model.fit(
            programs.workload.data.training(
                batch_size=batch_size, seed=seed, num_examples=steps * batch_size
            ),
            steps_per_epoch=steps,
            callbacks=[record],
            class_weight=programs.workload.compilation.class_weight,
            shuffle=False,
            verbose=0,
        )
        losses.append(tuple(record.losses))
    return LearningRateRange(
        batch_size,
        tuple(float(rate) for rate in rates),
        tuple(losses),
        read_range_test(rates, np.array(losses)),
    )


class _LossOfEachBatch(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps every batch's own loss, where Keras's logs have the mean of an epoch so far."""

    def __init__(self, steps: int):
        super().__init__()
        self.losses = [math.nan] * steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes the loss, and ends a sweep that has blown up."""
        loss = float((logs or {}).get("loss", math.nan))
        self.model.reset_metrics()
        if not math.isfinite(loss) or batch + 1 >= len(self.losses):
            self.model.stop_training = True
        self.losses[batch] = loss if math.isfinite(loss) else math.nan
        if loss > _BLOWN_UP * max(abs(self.losses[0]), _SMALLEST_LOSS):
            self.model.stop_training = True


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> LearningRateRange:
    """See tfbatch.instruments.Probe: around the baseline's learning rate."""
    configuration = bench.configuration(bench.request.baseline.batch_size)
    rate = configuration.base_learning_rate
    seeds, steps = (SEEDS, STEPS) if seconds >= 10 else (2, 60)
    found: LearningRateRange = bench.measure(
        measure_learning_rate_range,
        configuration,
        rate / 10**DECADES,
        rate * 10**DECADES,
        steps,
        seeds,
    )
    return found
