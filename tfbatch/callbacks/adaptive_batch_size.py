"""Lets the batch size follow the gradient noise scale as training goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import keras
import numpy as np
import numpy.typing as npt
from absl import logging

from tfbatch.callbacks._batch_size_driver import BatchSizeDriver, whole_number
from tfbatch.callbacks._learning_rate import check_one_rate, optimizers_of
from tfbatch.errors import InputError
from tfbatch.estimators.noise_scale import NoiseScale
from tfbatch.loss_scaling import unwrapped
from tfbatch.scaling_rules import scaled
from tfbatch.schedules import LearningRateInExamples


class Estimator(Protocol):
    """What measures the noise scale, such as GradientNoiseScale."""

    @property
    def estimate(self) -> NoiseScale | float | None:
        """The noise scale now; None where it is not known yet."""


class AdaptiveBatchSize(BatchSizeDriver):
    """Multiplies the batch size when the noise scale has been above it for some epochs.

    Far below the gradient noise scale a larger batch saves updates in proportion (McCandlish et
    al. 2018, arXiv 1812.06162), and the noise scale grows during training: small batches early,
    large ones late, with no schedule to choose. (As an estimate of the critical batch size it is
    a rough one, Merrill et al. 2025, arXiv 2505.23971: `ratio` is a number to tune.)

        def after_epoch(noise_scale):       # the lower end of its interval; only if it is new
            above = above + 1 if noise_scale > ratio * batch_size else 0
            if above >= patience and batch_size * factor <= max_batch_size:
                batch_size, above = batch_size * factor, 0

    A size is decided at the end of an epoch and holds from the next one's first batch on exactly.
    For decisions more often than once in a pass, `dataset` has `examples_per_epoch`. The size
    never shrinks. `batch_size` is in the logs of each epoch.

    Example:
        ```python
        noise = tfbatch.callbacks.GradientNoiseScale(x, y, batch_size=256)
        adaptive = tfbatch.callbacks.AdaptiveBatchSize(noise, batch_size=32, max_batch_size=512)
        model.fit(adaptive.dataset(x, y), epochs=30, callbacks=[noise, adaptive])
        ```

    The examples of an update are not known before, so a LearningRateInExamples that changes is
    refused, and of Keras's own schedules, which count updates, it is logged that they run slower
    once the batch has grown. A learning rate set by epoch (keras.callbacks.LearningRateScheduler)
    goes by examples too, since epochs have the same examples to within one batch.

    A `fit` whose `initial_epoch` is the epoch after the last one goes on with its batch size and
    learning rate; any other begins anew with the first size, and takes back what a scaling rule has
    multiplied the learning rate by, unless it was set to another since. That holds for the same
    object: one in another process, as after keras.callbacks.BackupAndRestore, knows neither. It
    begins anew with the first size at the learning rate that was restored, and a warning says so.

    Args:
        noise_scale: A function that returns the noise scale in examples (a number, or an object
            with `noise_scale`; None for not yet), called at the end of each epoch; or an object
            whose `estimate` is that, such as the callback GradientNoiseScale, which must stand
            before this one in `fit`; with data of its own, in larger batches than those trained
            on, it needs fewer measurements (in a training of a minute or less, an `interval`
            too, or a larger `max_share`). Where it has an `interval`, the lower end counts: few
            measurements are too uncertain to grow on. Values that are not finite, or negative,
            count as not yet, and so does an epoch without a new one of its `measurements`.
        batch_size: The first batch size.
        max_batch_size: Largest batch size: what memory holds.
        factor: What a size is multiplied by, a whole number > 1.
        ratio: Batch sizes by which the noise scale must exceed one, > 0.
        patience: Epochs with a measurement in a row that must have done so, at least 1.
        scaling_rule: A file of tfbatch/scaling_rules: what the learning rate is multiplied by at a
            switch. "none" grows the batch instead of decaying the learning rate.
        scaling_parameters: The rule's own parameters.
        seed: Of the order of the examples.

    Attributes:
        batch_size: The size now.
        switches: (epoch, first example, batch size) of each size.

    Raises:
        InputError: An argument out of its range. At the beginning of `fit`: another dataset, a
            schedule that counts examples or that a scaling rule cannot change, several optimizers
            with a scaling rule, or a noise scale that nobody measures.
    """

    def __init__(
        self,
        noise_scale: Callable[[], NoiseScale | float | None] | Estimator,
        *,
        batch_size: int = 32,
        max_batch_size: int,
        factor: int = 2,
        ratio: float = 1.0,
        patience: int = 2,
        scaling_rule: str = "none",
        scaling_parameters: Mapping[str, float] | None = None,
        seed: int = 0,
    ):
        super().__init__(seed=seed)
        if not (callable(noise_scale) or hasattr(noise_scale, "estimate")):
            raise InputError(
                "`noise_scale` must be a function, or an object with an `estimate` such as "
                f"GradientNoiseScale. Received: {noise_scale!r}."
            )
        if not 1 <= batch_size <= max_batch_size:
            raise InputError(
                "`1 <= batch_size <= max_batch_size` must hold. "
                f"Received: {batch_size=}, {max_batch_size=}."
            )
        if not (factor >= 2 and ratio > 0 and patience >= 1):
            raise InputError(
                "`factor` must be >= 2, `ratio` > 0 and `patience` >= 1. "
                f"Received: {factor=}, {ratio=}, {patience=}."
            )
        scaled(scaling_rule, 1.0, batch_size=1, base_batch_size=1, parameters=scaling_parameters)
        self.noise_scale = noise_scale
        self.first_batch_size = whole_number(batch_size, what="`batch_size`")
        self.factor = whole_number(factor, what="`factor`")
        self.max_batch_size, self.ratio, self.patience = max_batch_size, ratio, patience
        self.scaling_rule, self.scaling_parameters = scaling_rule, scaling_parameters
        self._next = self._measurements = 0
        self._scaled_by = 1.0
        self._rate_left: float | None = None
        self._forget()

    def _forget(self) -> None:
        self.batch_size = self.first_batch_size
        self.switches: list[tuple[int, int, int]] = []
        self._above = 0
        self._position = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuses what could not work."""
        super().on_train_begin(logs)
        optimizer = self.model.optimizer
        if self.scaling_rule != "none":
            check_one_rate(
                optimizer, caller=f"AdaptiveBatchSize with the scaling rule {self.scaling_rule}"
            )
        for one in optimizers_of(optimizer):
            self._check_rate(one._learning_rate)
        watched = self.noise_scale
        if isinstance(watched, keras.callbacks.Callback) and watched._model is not self.model:
            raise InputError(
                "The callback that measures the noise scale must be in `fit` too: "
                "`callbacks=[noise, adaptive]`."
            )
        parts = getattr(watched, "micro_batches", 0)
        if getattr(watched, "x", self) is None and parts > self.first_batch_size:
            raise InputError(
                "A batch must have an example for each of the micro-batches that the noise scale "
                f"is measured with. Received: batch_size={self.first_batch_size}, "
                f"micro_batches={parts}. Give GradientNoiseScale fewer `micro_batches`, or data "
                "of its own."
            )
        self._measurements = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Goes on, or begins anew at an epoch that does not follow the last one."""
        if epoch == 0 or epoch != self._next:
            if epoch > self._next and self.scaling_rule != "none" and self._scaled_by == 1.0:
                logging.warning(
                    "AdaptiveBatchSize begins anew at epoch %d with batch size %d, at the learning "
                    "rate %g. If an earlier process has trained up to here, its scaling rule may "
                    "have multiplied this rate: set `model.optimizer.learning_rate` back to that "
                    "of the first batch size.",
                    *(epoch, self.first_batch_size, self._rate()),
                )
            self._unscale()
            self._forget()
            self._position = epoch * self._driven.epoch_examples
        if not self.switches or self.switches[-1][2] != self.batch_size:
            self.switches.append((epoch, self._position, self.batch_size))
        super().on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Decides the next epoch's size."""
        super().on_epoch_end(epoch, logs)
        self._position += self._steps * self.batch_size
        self._next = epoch + 1
        found = self._measured()
        if found is None:
            return
        self._above = self._above + 1 if found > self.ratio * self.batch_size else 0
        larger = self.batch_size * self.factor
        if self._above >= self.patience and larger in self._possible_sizes(
            self._driven.epoch_examples
        ):
            self._grow(larger)

    def on_train_end(self, logs: Any = None) -> None:
        """Notes the learning rate, by which the next `fit` knows whether it is still its own."""
        super().on_train_end(logs)
        if self._scaled_by != 1.0:
            self._rate_left = self._rate()

    def _check_rate(self, rate: Any) -> None:
        """Refuses or warns of a schedule that a batch which grows would lead astray."""
        counts_examples = isinstance(rate, LearningRateInExamples)
        if counts_examples and (
            rate.family != "constant" or rate.warmup_examples or rate.piece_factors
        ):
            raise InputError(
                "AdaptiveBatchSize needs a learning rate that does not count the examples of "
                "updates: a number, or one set by keras.callbacks.LearningRateScheduler. "
                f"Received: the schedule {rate.family}, warmup_examples={rate.warmup_examples}, "
                f"piece_factors={rate.piece_factors}."
            )
        if self.scaling_rule != "none" and callable(rate):
            raise InputError(
                f"The scaling rule {self.scaling_rule} cannot change the learning rate of a "
                f"schedule. Give the optimizer a number. Received: {type(rate).__name__}."
            )
        counts_updates = isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
        sizes = self._possible_sizes(self._driven.epoch_examples)
        if counts_updates and not counts_examples and len(sizes) > 1:
            logging.warning(
                "%s counts updates, of which an epoch has fewer once the batch has grown: give the "
                "optimizer a number, or set the learning rate by "
                "keras.callbacks.LearningRateScheduler.",
                type(rate).__name__,
            )

    def _grow(self, larger: int) -> None:
        factor = scaled(
            self.scaling_rule, 1.0, batch_size=larger, base_batch_size=self.batch_size,
            parameters=self.scaling_parameters,
        )  # fmt: skip
        if factor != 1.0:
            self._scaled_by *= factor
            self._optimizer().learning_rate = self._rate() * factor
            self._rate_left = self._rate()  # an interrupted `fit` has no `on_train_end`
        self.batch_size, self._above = larger, 0

    def _unscale(self) -> None:
        """Takes the factors back from the learning rate that an earlier `fit` left."""
        if self._scaled_by != 1.0 and self._rate() == self._rate_left:
            self._optimizer().learning_rate = self._rate() / self._scaled_by
        self._scaled_by = 1.0

    def _rate(self) -> float:
        return float(keras.ops.convert_to_numpy(self._optimizer().learning_rate))

    def _measured(self) -> float | None:
        """What the noise scale is at least; None if that is not known, or not anew."""
        found: Any = self.noise_scale
        if (count := getattr(found, "measurements", None)) is not None:
            before, self._measurements = self._measurements, count
            if count == before:
                return None
        found = found.estimate if hasattr(found, "estimate") else found()
        value = getattr(found, "noise_scale", found)
        value = getattr(getattr(found, "interval", None), "low", value)
        return float(value) if value is not None and 0 <= value < math.inf else None

    def _optimizer(self) -> Any:
        """The optimizer itself, where another wraps it to scale the loss."""
        return unwrapped(self.model.optimizer)

    def _possible_sizes(self, epoch_examples: int) -> list[int]:
        sizes = [self.first_batch_size]
        while sizes[-1] * self.factor <= min(self.max_batch_size, epoch_examples):
            sizes.append(sizes[-1] * self.factor)
        return sizes

    def _next_epoch(self, epoch: int) -> tuple[int, npt.NDArray[np.int64]]:
        rest = (epoch + 1) * self._driven.epoch_examples - self._position
        return self._position, np.full(-(-rest // self.batch_size), self.batch_size, np.int64)
