"""What the callbacks that change the batch size have in common: a dataset, and its epochs."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.pipeline.cut_stream import CutStream, of_arrays, of_dataset
from tfbatch.seeds import derive_seed

_RIGHT_WAY = "`model.fit(scheduler.dataset(x, y), callbacks=[scheduler])`"


class _EndOfEpoch:
    """`model.stop_training` at an epoch's last batch: truthy, distinguishable from `True`."""


_END_OF_EPOCH = _EndOfEpoch()


def whole_number(value: float, *, what: str) -> int:
    """A batch size, or what one is multiplied by, as an int: also of 32.0, which no array takes.

    Raises:
        InputError: It is not whole.
    """
    if not float(value).is_integer():
        raise InputError(f"{what} must be a whole number. Received: {value!r}. Round it.")
    return int(value)


class BatchSizeDriver(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells its dataset every epoch's batches, and Keras when they have been.

    Keras asks once how many steps an epoch has; here the number differs. A dataset whose length is
    unknown is run out of: Keras warns, keeps the first epoch's number for all, and the optimizer
    counts a phantom iteration. So the epoch is ended as `stop_training` ends one, after its last
    batch, and `on_epoch_end` lets the training go on, unless somebody else asked to stop.
    """

    def __init__(self, *, seed: int):
        super().__init__()
        self.seed = seed
        self._stream: CutStream | None = None
        self._steps = 0
        self._is_checked = False

    def dataset(
        self,
        x: object,
        y: object = None,
        sample_weight: object = None,
        *,
        shuffle: bool = True,
        num_examples: int | None = None,
        shuffle_buffer_size: int = 10_000,
        examples_per_epoch: int | None = None,
    ) -> tf.data.Dataset:
        """The batches to train on; the callback and its copies drive the one made last.

        The examples are one endless stream, permutation after permutation, whose order depends on
        the seed alone. Batches are cut from it one after the other and reach over the ends of
        epochs, so that each example is seen once in each pass whatever the sizes, and no batch is
        smaller than it should be. An epoch of `fit` has all batches that begin in it.

        Args:
            x: Inputs, one or a structure of arrays; or a `tf.data.Dataset` of single examples,
                which is read anew for each epoch (the part that the last epoch's last batch took
                is skipped: that is exact where the Dataset has the same order each time).
            y: Targets of arrays.
            sample_weight: Weights of arrays.
            shuffle: Whether the examples are shuffled, anew for each pass.
            num_examples: Number of examples of a Dataset that does not know it.
            shuffle_buffer_size: Examples of a Dataset that are shuffled at a time.
            examples_per_epoch: Length of an epoch of `fit`, where it is not one pass.

        Raises:
            InputError: Arrays of unequal lengths, a Dataset of batches or of unknown length, an
                epoch that is smaller than a batch, or the scope of a strategy.
        """
        if tf.distribute.has_strategy():
            raise InputError(
                "`dataset` must be called outside of `strategy.scope()`: what it reads is not "
                "mirrored. Make it before the model."
            )
        if examples_per_epoch is not None and examples_per_epoch < 1:
            raise InputError(f"`examples_per_epoch` must be >= 1. Received: {examples_per_epoch=}.")
        seed = derive_seed(self.seed, "order")
        if isinstance(x, tf.data.Dataset):
            if y is not None or sample_weight is not None:
                raise InputError("A Dataset `x` must hold `y` and `sample_weight` itself.")
            stream = of_dataset(
                x,
                seed=seed,
                epoch_examples=examples_per_epoch,
                num_examples=num_examples,
                shuffle_buffer_size=shuffle_buffer_size if shuffle else 0,
            )
        else:
            packed = keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
            stream = of_arrays(
                packed, seed=seed, epoch_examples=examples_per_epoch, shuffle=shuffle
            )
        sizes = self._possible_sizes(stream.epoch_examples)
        if max(sizes) > stream.epoch_examples:
            raise InputError(
                "A batch must not have more examples than an epoch. Received: batch sizes up to "
                f"{max(sizes)}, {stream.epoch_examples} examples in an epoch."
            )
        stream.rest(sizes[0])
        self._stream = stream
        return stream.dataset

    @abstractmethod
    def _possible_sizes(self, epoch_examples: int) -> list[int]:
        """Every size that a batch can have, the first one first."""

    @abstractmethod
    def _next_epoch(self, epoch: int) -> tuple[int, npt.NDArray[np.int64]]:
        """Where an epoch begins, and the size of each of its batches."""

    @property
    def _driven(self) -> CutStream:
        if self._stream is None:
            raise InputError(
                f"{type(self).__name__} changes the batches of its own dataset alone, and none was "
                f"made. Train with {_RIGHT_WAY}."
            )
        return self._stream

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuses data that is not its own, as far as Keras tells it, and uneven replicas."""
        sizes = self._possible_sizes(self._driven.epoch_examples)
        if (self.params or {}).get("steps") is not None:
            raise self._another_dataset()
        strategy = self.model.distribute_strategy
        replicas = strategy.num_replicas_in_sync
        if getattr(strategy.extended, "_in_multi_worker_mode", bool)():
            raise InputError(f"{type(self).__name__} cannot be used with several workers.")
        if uneven := [size for size in sizes if size % replicas]:
            raise InputError(
                f"Every batch size must be a multiple of the number of replicas, {replicas}. "
                f"Received: {uneven}."
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Tells the dataset its batches, before Keras asks it for an iterator."""
        start, sizes = self._next_epoch(epoch)
        self._steps, self._last_size = len(sizes), int(sizes[-1])
        self._is_checked = False
        self._driven.drive(start, sizes)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Ends the epoch after its last batch."""
        if not self._is_checked:
            if not self._driven.has_begun:
                raise self._another_dataset()
            self._is_checked = True
        if batch + 1 >= self._steps and not self.model.stop_training:
            self.model.stop_training = _END_OF_EPOCH

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Lets the training go on, and publishes `batch_size`, that of the epoch's last batch."""
        if self.model.stop_training is _END_OF_EPOCH:
            self.model.stop_training = False
        if logs is not None:
            logs["batch_size"] = self._last_size

    def on_train_end(self, logs: Any = None) -> None:
        """Leaves the dataset alone."""
        stream = self._driven
        stream.rest(self._possible_sizes(stream.epoch_examples)[0])

    def _another_dataset(self) -> InputError:
        return InputError(
            f"{type(self).__name__} cannot change the batches of arrays or of another dataset, nor "
            "have epochs of `steps_per_epoch` steps (`dataset` has `examples_per_epoch`). Train "
            f"with {_RIGHT_WAY}, and the dataset made last."
        )
