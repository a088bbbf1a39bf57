"""The gradient noise scale of a running training."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from tfbatch.callbacks._given_arrays import as_arrays
from tfbatch.callbacks._noise_meter import NoiseMeter
from tfbatch.callbacks._steps import CountsSteps
from tfbatch.callbacks._watched_input import WatchedInput, check_single_device
from tfbatch.errors import InputError
from tfbatch.estimators.noise_scale import NoiseScale
from tfbatch.gradients import SquaredNorms


class GradientNoiseScale(CountsSteps):
    """Publishes `noise_scale`, `noise_scale_low` and `noise_scale_high` at the end of each epoch.

    The simple noise scale tr(Sigma) / |G|^2 of McCandlish et al. 2018 (arXiv 1812.06162), in
    examples: far below it a larger batch saves steps in proportion, far above it none. Now and
    then a batch is cut into micro-batches, whose gradients and their mean give an unbiased pair
    (tfbatch.estimators.noise_scale); numerator and denominator are averaged exponentially over
    the pairs before they are divided. It grows during training: early values are too small. The
    interval is of the value for the population that the examples come from: epochs see the same
    ones, so that no more pairs than one epoch holds are taken as independent.

    Without data it takes the batches that training is about to see, before it sees them; where
    their size changes during `fit` it goes on at the new one. A batch of fewer examples than
    `micro_batches` cannot be measured. Weights, optimizer, order of the data, random generators,
    moving statistics and metrics stay as they would be without it.

    Example:
        ```python
        noise = tfbatch.callbacks.GradientNoiseScale()
        model.fit(data, callbacks=[noise])
        print(noise.estimate)
        ```

    Args:
        x: Inputs to draw batches from, one or a structure of arrays (of NumPy, TensorFlow or
            pandas) with the examples in the first dimension; None for the batches of the training.
        y: Targets, likewise.
        batch_size: Examples in one measurement drawn from `x`.
        micro_batches: Parts of a batch, at least 2.
        interval: Steps between two measurements; None: as often as `max_share` allows.
        max_share: Largest share of the training's time spent measuring, tracing apart; in effect
            where `interval` is None. Three quarters of it are planned with. The first one is made
            after some 100 times its own duration, so that a very short fit has none.
        decay: Factor by which a pair's weight falls with each new one: 0.95 remembers about 40.
        training: Whether the gradients are those of the training mode, with dropout, and with
            BatchNormalization over each micro-batch: the average then begins anew when the batch
            size changes. By default they are those of the inference mode, where examples do not
            depend on each other.
        seed: Of the draws from `x`.

    Attributes:
        estimate: The NoiseScale with its interval and doubts; None before the first measurement.
        share: Share of the training's time that was spent measuring, tracing apart. Everything
            counts but waiting for a batch, which training would have done as well.
        tracing_seconds: Seconds spent tracing, at the first batch and at one of another size.
        measurements: Number of measurements.
        refused: Why the training's batches cannot be measured; empty where they could be.

    Raises:
        InputError: An argument out of its range; `x` and `y` that are not arrays of equal length.
            At the beginning of `fit`: a `tf.distribute` strategy, a train_step of the model's own,
            a loss that is summed, float16. At the first measured batch: a loss that is not a mean
            over its examples, a sparse tensor. At any: memory that runs out, or what else its
            gradient raises.
    """

    only_looks = True
    _ends_training = True  # where a batch cannot be measured

    @property
    def reads_batches(self) -> bool:
        """Whether it looks at the batches of the training: where it has no examples of its own."""
        return self.x is None

    def __init__(
        self,
        x: object = None,
        y: object = None,
        *,
        batch_size: int = 128,
        micro_batches: int = 8,
        interval: int | None = None,
        max_share: float = 0.03,
        decay: float = 0.95,
        training: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        self._check(x, batch_size, micro_batches, interval, max_share, decay)
        self.x, self.y = x, y
        if x is not None:
            packed = as_arrays((x,) if y is None else (x, y), what="`x` and `y`")
            self.x, self.y = packed if len(packed) == 2 else (*packed, None)
        self.batch_size, self.micro_batches = batch_size, micro_batches
        self.interval, self.max_share, self.decay = interval, max_share, decay
        self.training, self.seed = training, seed
        self._watched: WatchedInput | None = None
        self._forget()

    def _forget(self) -> None:
        self._meter: NoiseMeter | None = None
        self.estimate: NoiseScale | None = None
        self.refused = ""
        self.share = self.tracing_seconds = 0.0
        self.measurements = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts anew."""
        self._stop_watching()
        self._forget()
        check_single_device(self.model, caller="GradientNoiseScale")
        norms = SquaredNorms(self.model, micro_batches=self.micro_batches, training=self.training)
        self._meter = NoiseMeter(
            norms,
            decay=self.decay,
            interval=self.interval,
            max_share=self.max_share,
            num_examples=None if self.x is None else len(keras.tree.flatten(self.x)[0]),
            steps_per_pass=self.params.get("steps"),
        )
        self._random = np.random.default_rng(self.seed)
        self._steps = self._steps_before = 0
        if self.x is None:
            self._watched = WatchedInput(
                self.model,
                caller="GradientNoiseScale",
                wants_batch=lambda: self._meter is not None and self._meter.due(self._steps),
                look=self._look,
                counts=False,
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes where the epoch starts."""
        self._steps_before = self._steps
        self._begin_steps()
        if self._meter is not None:
            self._meter.begin_epoch()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Measures on data of its own."""
        if self.x is not None and self._meter is not None and self._meter.due(self._steps):
            self._meter.measure(self._drawn(), step=self._steps)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Ends training where its batches cannot be measured."""
        self._steps = self._steps_before + self._steps_of_epoch(batch)
        if self._meter is not None and self._meter.refused:
            self.refused, remedy = self._meter.refused, self._meter.remedy
            if self._ends_training:
                error = InputError(f"{self.refused}. {remedy}" if remedy else self.refused)
                if self._meter.raised:  # as a note, for Keras drops the cause of an error
                    error.add_note(self._meter.raised)
                raise error

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Publishes; NaN where nothing was measured yet."""
        if self._meter is None:
            return
        self._publish(self._meter)
        if logs is not None:
            found = self.estimate
            logs["noise_scale"] = found.noise_scale if found else math.nan
            logs["noise_scale_low"] = found.interval.low if found else math.nan
            logs["noise_scale_high"] = found.interval.high if found else math.nan

    def on_train_end(self, logs: Any = None) -> None:
        """Stops watching."""
        self._stop_watching()

    def _look(self, batch: object) -> None:
        assert self._meter is not None
        assert self._watched is not None
        self._meter.measure(batch, step=self._steps, waited=self._watched.waited_for_look)

    def _drawn(self) -> Any:
        given = (self.x,) if self.y is None else (self.x, self.y)
        count = len(keras.tree.flatten(given)[0])
        rows = self._random.choice(count, size=min(self.batch_size, count), replace=False)
        return keras.tree.map_structure(lambda a: keras.ops.convert_to_tensor(a[rows]), given)

    def _publish(self, meter: NoiseMeter) -> None:
        self.estimate = meter.estimate()
        self.measurements = meter.measurements
        self.tracing_seconds, self.share = meter.time.tracing_seconds, meter.time.share

    def _stop_watching(self) -> None:
        """Lets go of the traced program, which cannot be copied."""
        if self._watched is not None:
            self._watched.remove()
        self._watched = self._meter = None

    @staticmethod
    def _check(
        x: object,
        batch_size: int,
        micro_batches: int,
        interval: int | None,
        max_share: float,
        decay: float,
    ) -> None:
        if micro_batches < 2:
            raise InputError(f"`micro_batches` must be >= 2. Received: {micro_batches=}.")
        if x is not None and batch_size < micro_batches:
            raise InputError(
                "`batch_size` must be at least `micro_batches`. "
                f"Received: {batch_size=}, {micro_batches=}."
            )
        if interval is not None and interval < 1:
            raise InputError(f"`interval` must be >= 1 steps, or None. Received: {interval=}.")
        if not 0 < max_share < 1:
            raise InputError(f"`max_share` must be > 0 and < 1. Received: {max_share=}.")
        if not 0 <= decay < 1:
            raise InputError(f"`decay` must be >= 0 and < 1. Received: {decay=}.")
        if x is not None and hasattr(x, "element_spec"):
            raise InputError(
                "`x` must be arrays, or None for the batches of the training. Received a "
                "tf.data.Dataset. Take arrays of some of its examples: iterating a dataset that "
                "shuffles changes the order in which the training sees it."
            )
