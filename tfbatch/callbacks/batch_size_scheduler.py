"""Changes the batch size during training, at positions that are known before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from absl import logging
from typing_extensions import Unpack

from tfbatch.callbacks._batch_size_driver import BatchSizeDriver, whole_number
from tfbatch.callbacks._learning_rate import optimizers_of
from tfbatch.callbacks._steps import schedule_step
from tfbatch.errors import InputError
from tfbatch.scaling_rules import scaled
from tfbatch.schedules import BatchSizes, LearningRateInExamples

Unit = Literal["epochs", "examples"]


class ScheduleArguments(TypedDict, total=False):
    """Further arguments of LearningRateInExamples."""

    warmup_examples: int
    warmup_start: float
    parameters: dict[str, float]
    name: str


class BatchSizeScheduler(BatchSizeDriver):
    """Trains with another batch size from given positions on, larger or smaller.

    A batch size that is multiplied where a learning rate would be divided leaves the scale of the
    gradient's noise the same (Smith et al. 2017, arXiv 1711.00489): the loss follows the same
    curve over examples, in fewer updates.

    Keras cannot change the batches of arrays or of an ordinary dataset. So the callback comes with
    its dataset, which is exact to the batch: neither prefetching nor `steps_per_execution` delays
    a switch.

    Example:
        ```python
        scheduler = tfbatch.callbacks.BatchSizeScheduler({0: 32, 10: 64, 20: 128})
        model.fit(scheduler.dataset(x, y), epochs=30, callbacks=[scheduler])
        ```

    A learning rate that changes with examples, or with the batch size, is made by
    `learning_rate`; a schedule that counts updates as examples of one batch size is refused, and
    of Keras's own schedules, which count updates, it is logged that they run slower or faster. An
    SGD momentum holds the learning rate of earlier updates in its velocity: where a scaling rule
    multiplies the learning rate, the first updates (about 1 / (1 - momentum)) are still of the
    old size, as after a step of any schedule. Growth at a constant learning rate has no such lag.

    A `fit` with `initial_epoch` goes on as an uninterrupted one. What counts epochs (early
    stopping, validation) keeps its meaning: an epoch has the same examples, to within one batch.
    Keras's progress bar knows the number of updates of an epoch only from the epoch before.

    Args:
        batch_sizes: Batch size from each position on, the first position 0.
        unit: What positions count; an epoch is one of `fit`, and may be a fraction.
        seed: Of the order of the examples.

    Raises:
        InputError: Positions that do not begin at 0 or do not rise, a size below 1 or not whole. At
            the beginning of `fit`: another dataset, or a learning rate that does not fit.
    """

    def __init__(self, batch_sizes: Mapping[float, int], *, unit: Unit = "epochs", seed: int = 0):
        super().__init__(seed=seed)
        if unit not in ("epochs", "examples"):
            raise InputError(f'`unit` must be "epochs" or "examples". Received: {unit=}.')
        if unit == "examples" and any(position != int(position) for position in batch_sizes):
            raise InputError(f"Positions in examples must be whole. Received: {batch_sizes}.")
        given = {at: whole_number(size, what="A batch size") for at, size in batch_sizes.items()}
        # Refuses now what cannot be at any length; in millionths of an epoch.
        scale = 1_000_000 if unit == "epochs" else 1
        BatchSizes.of((round(at * scale), size) for at, size in given.items())
        self.unit = unit
        self._given = given

    @classmethod
    def ramp(
        cls, first: int, last: int, *, until: float, factor: float = 2.0, unit: Unit = "epochs",
        seed: int = 0,
    ) -> BatchSizeScheduler:  # fmt: skip
        """From one batch size to another, up or down, by a factor at equal distances.

            def batch_size(x, n=ceil(log(last / first) / log(factor))):
                i = floor(n * x / until)          # the n-th switch, to `last`, is at `until`
                return last if i >= n else round(first * factor**i)

        Args:
            first: The first batch size.
            last: The last one; below `first` the sizes are divided by `factor`.
            until: Position from which on `last` holds, > 0.
            factor: Between two sizes, > 1.
            unit: What positions count.
            seed: Of the order of the examples.

        Raises:
            InputError: An argument out of its range.
        """
        if not (factor > 1 and until > 0 and min(first, last) >= 1 and first != last):
            raise InputError(
                "`factor` must be > 1, `until` > 0, and `first` and `last` different and >= 1. "
                f"Received: {first=}, {last=}, {until=}, {factor=}."
            )
        first, last = (whole_number(size, what="`first` and `last`") for size in (first, last))
        step = factor if last > first else 1 / factor
        switches = int(np.ceil(np.log(last / first) / np.log(step) - 1e-9))
        places = [until * i / switches for i in range(switches + 1)]
        sizes = [round(first * step**i) for i in range(switches)]
        if unit == "examples":
            places = [round(place) for place in places]
        return cls(dict(zip(places, [*sizes, last], strict=True)), unit=unit, seed=seed)

    @classmethod
    def instead_of_decay(
        cls, batch_size: int, *, boundaries: Sequence[float], gamma: float,
        unit: Unit = "epochs", seed: int = 0,
    ) -> BatchSizeScheduler:  # fmt: skip
        """Divides the batch size by `gamma` where a schedule would multiply the learning rate.

            def batch_size(x):
                return round(batch_size / gamma ** sum(x >= b for b in boundaries))

        Args:
            batch_size: The first batch size.
            boundaries: Positions of the decays, rising, > 0.
            gamma: Factor of the decay, in (0, 1).
            unit: What positions count.
            seed: Of the order of the examples.

        Raises:
            InputError: `gamma` is not in (0, 1), boundaries that do not rise, or a `batch_size`
                that is not whole.
        """
        if not 0 < gamma < 1:
            raise InputError(f"`gamma` must be > 0 and < 1. Received: {gamma=}.")
        if sorted(set(boundaries)) != list(boundaries):
            raise InputError(f"`boundaries` must rise. Received: {boundaries=}.")
        batch_size = whole_number(batch_size, what="`batch_size`")
        places = [0, *boundaries]
        sizes = [round(batch_size / gamma**drops) for drops in range(len(places))]
        return cls(dict(zip(places, sizes, strict=True)), unit=unit, seed=seed)

    def batch_sizes(self, *, examples_per_epoch: int | None = None) -> BatchSizes:
        """The batch size of every update.

        Args:
            examples_per_epoch: Length of an epoch of `fit`; None for that of the dataset made
                last.

        Raises:
            InputError: Positions in epochs, of no known length.
        """
        scale = 1 if self.unit == "examples" else examples_per_epoch
        if scale is None:
            scale = self._driven.epoch_examples
        return BatchSizes.of((round(at * scale), size) for at, size in self._given.items())

    def learning_rate(
        self,
        family: str,
        *,
        learning_rate: float,
        total_examples: int,
        scaling_rule: str = "none",
        scaling_parameters: Mapping[str, float] | None = None,
        examples_per_epoch: int | None = None,
        **arguments: Unpack[ScheduleArguments],
    ) -> LearningRateInExamples:
        """A learning-rate schedule over examples that knows each update's batch.

        Args:
            family: A file of tfbatch/schedules, such as "cosine".
            learning_rate: The peak, at the first batch size.
            total_examples: Length of the whole training.
            scaling_rule: A file of tfbatch/scaling_rules: how the learning rate follows the batch
                size, from its first one.
            scaling_parameters: The rule's own parameters.
            examples_per_epoch: As for `batch_sizes`.
            arguments: Further arguments of LearningRateInExamples.

        Raises:
            InputError: An argument that these refuse.
        """
        sizes = self.batch_sizes(examples_per_epoch=examples_per_epoch)
        first = sizes.pieces[0][1]
        factors = [
            scaled(
                scaling_rule, 1.0, batch_size=size, base_batch_size=first,
                parameters=scaling_parameters,
            )
            for _, size in sizes.pieces
        ]  # fmt: skip
        return LearningRateInExamples(
            family,
            learning_rate=learning_rate,
            batch_size=sizes,
            total_examples=total_examples,
            piece_factors=factors if set(factors) != {1.0} else None,
            **arguments,
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuses a learning rate that counts other examples."""
        super().on_train_begin(logs)
        self._is_first = True
        rates = [one._learning_rate for one in optimizers_of(self.model.optimizer)]
        in_examples = [rate for rate in rates if isinstance(rate, LearningRateInExamples)]
        self._counts_examples = bool(in_examples)
        for rate in in_examples:
            if rate.batch_sizes != self.batch_sizes():
                raise InputError(
                    "The learning rate's schedule must count the examples of these batch sizes. "
                    "Make it with `scheduler.learning_rate(...)`. Received: a schedule of the "
                    f"batch sizes {list(rate.batch_sizes.pieces)}, a scheduler of "
                    f"{list(self.batch_sizes().pieces)}."
                )
        of_updates = [rate for rate in rates if callable(rate) and rate not in in_examples]
        if of_updates and len(self._given) > 1:
            logging.warning(
                "%s counts updates, of which an epoch has fewer with larger batches: make the "
                "learning rate with `scheduler.learning_rate(...)`.",
                type(of_updates[0]).__name__,
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Says where the optimizer is at another update than the batches are."""
        super().on_epoch_begin(epoch, logs)
        if self._is_first and self._counts_examples:
            here = self.batch_sizes().steps_before(epoch * self._driven.epoch_examples)
            done = schedule_step(self.model.optimizer)
            if done != here:
                logging.warning(
                    "The optimizer has made %d updates, and epoch %d of the batch sizes begins "
                    "after %d: its learning rate is that of other examples.",
                    *(done, epoch, here),
                )
        self._is_first = False

    def _possible_sizes(self, epoch_examples: int) -> list[int]:
        return list(self._given.values())

    def _next_epoch(self, epoch: int) -> tuple[int, npt.NDArray[np.int64]]:
        length = self._driven.epoch_examples
        return self.batch_sizes().cut(epoch * length, (epoch + 1) * length)
