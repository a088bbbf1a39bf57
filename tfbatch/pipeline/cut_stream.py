"""A stream of batches whose sizes are told epoch by epoch: cut from one order of the examples."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.pipeline.elements import Nest, check_dataset, known_batching
from tfbatch.pipeline.streams import as_tensor, fixed_options, parallel_calls, permutation

UNDRIVEN = (
    "The dataset of a batch-size callback was used without it: its batch size could not change. "
    "Train with `model.fit(scheduler.dataset(x, y), callbacks=[scheduler])`"
)
_PREFETCH = 4
_CHUNK = 64


class CutStream:
    """Endless examples in an order of their own, cut into one epoch's batches at a time.

    What the next epoch is (where it begins, the sizes of its batches) lies in variables that the
    dataset reads once, when it is iterated anew: so a size holds from its batch on exactly, however
    much is prefetched or done in one execution.

    Args:
        seed: Of the order.
        num_examples: Examples in the data.
        epoch_examples: Examples in an epoch of `fit`.

    Attributes:
        dataset: The batches of the epoch that `drive` was told last. Their number is unknown to
            Keras, since it differs from epoch to epoch.
    """

    dataset: tf.data.Dataset

    def __init__(self, *, seed: int, num_examples: int, epoch_examples: int):
        self.seed = seed
        self.num_examples = num_examples
        self.epoch_examples = epoch_examples
        with tf.init_scope(), tf.device("CPU:0"):
            # [first example, end, token]; a token of 0 is nobody's.
            self._window = tf.Variable([0, epoch_examples, 0], dtype=tf.int64, trainable=False)
            self._sizes = tf.Variable(
                [1], dtype=tf.int64, trainable=False, shape=tf.TensorShape([None])
            )
            self._begun = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._token = 0

    def __deepcopy__(self, memo: Any) -> CutStream:
        """A copied callback (KerasTuner copies them for each execution) drives the same dataset."""
        del memo
        return self

    def drive(self, start: int, sizes: npt.NDArray[np.int64]) -> None:
        """Tells the next epoch: its first example, and the size of each of its batches."""
        self._token += 1
        self._sizes.assign(sizes)
        self._window.assign([start, start + int(sizes.sum()), self._token])

    def rest(self, size: int) -> None:
        """Nobody drives it: an iterator gives one batch, to tell its shapes, and then fails."""
        self._sizes.assign([size])
        self._window.assign([0, self.epoch_examples, 0])

    @property
    def has_begun(self) -> bool:
        """Whether the epoch that was told last has been begun."""
        return int(self._begun) == self._token

    def _windows(self) -> tf.data.Dataset:
        """One element: the window and the sizes, read when the iterator begins."""

        def read(_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            window = tf.convert_to_tensor(self._window)
            with tf.control_dependencies([self._begun.assign(window[2])]):
                return tf.identity(window), tf.convert_to_tensor(self._sizes)

        return tf.data.Dataset.range(1).map(read)


def of_arrays(given: Nest, *, seed: int, epoch_examples: int | None, shuffle: bool) -> CutStream:
    """A stream of arrays in memory, any structure with the examples in the first dimension.

    Each epoch of the data has its permutation, which depends on the seed alone.

    Raises:
        InputError: Arrays of no or of unequal lengths.
    """
    # tf.data makes one tensor of a list.
    arrays = keras.tree.lists_to_tuples(keras.tree.map_structure(_as_array, given))
    lengths = {len(array) if array.ndim else 0 for array in keras.tree.flatten(arrays)}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(
            "`x`, `y` and `sample_weight` must have the same number of examples, at least 1. "
            f"Received: lengths {sorted(lengths)}."
        )
    count = lengths.pop()
    stream = CutStream(seed=seed, num_examples=count, epoch_examples=epoch_examples or count)
    tensors = keras.tree.map_structure(_as_tensor, arrays)

    def indices(epoch: tf.Tensor) -> tf.Tensor:
        if shuffle:
            return permutation(count, epoch=epoch, seed=tf.constant(seed, tf.int64))
        return tf.range(count)

    def cut(window: tf.Tensor, sizes: tf.Tensor) -> tf.data.Dataset:
        start, stop, token = window[0], window[1], window[2]

        def order(epoch: tf.Tensor) -> tf.Tensor:
            before = epoch * count
            return indices(epoch)[tf.maximum(start - before, 0) : stop - before]

        def gather(step: tf.Tensor, chosen: tf.Tensor) -> Any:
            with tf.control_dependencies([_driven(token, step)]):
                chosen = tf.identity(chosen)
            return keras.tree.map_structure(lambda tensor: tf.gather(tensor, chosen), tensors)

        epochs = tf.data.Dataset.range(start // count, -(-stop // count)).map(order).prefetch(1)
        return epochs.rebatch(sizes).enumerate().map(gather, num_parallel_calls=parallel_calls())

    stream.dataset = _finished(stream._windows().flat_map(cut))
    return stream


def of_dataset(
    given: tf.data.Dataset,
    *,
    seed: int,
    epoch_examples: int | None,
    num_examples: int | None,
    shuffle_buffer_size: int,
) -> CutStream:
    """A stream of a user's Dataset of single examples, read anew for each epoch.

    Raises:
        InputError: Batches, an endless Dataset, or one whose length is neither known nor given.
    """
    given = check_dataset(given, where="`x`")
    shapes = [spec.shape for spec in tf.nest.flatten(given.element_spec)]
    open_sizes = all(shape.rank is None or (shape.rank and shape[0] is None) for shape in shapes)
    batched = known_batching(given)
    if batched or (batched is None and open_sizes):  # which `batch` could not make batches of
        raise InputError(
            "`x` must be a Dataset of single examples: its batches are cut anew. "
            "Leave out `batch`, or append `.unbatch()`."
        )
    count = num_examples or int(given.cardinality())
    if count < 1:
        raise InputError(
            "The number of examples of `x` is unknown to TensorFlow. Give it as `num_examples`. "
            f"Received: {num_examples=}."
        )
    stream = CutStream(seed=seed, num_examples=count, epoch_examples=epoch_examples or count)

    def examples(epoch: tf.Tensor) -> tf.data.Dataset:
        # Of this function's graph only: tf.data mixes the program's global seed in otherwise.
        tf.compat.v1.set_random_seed(1)
        if shuffle_buffer_size < 2:
            return given
        return given.shuffle(shuffle_buffer_size, seed=tf.constant(seed, tf.int64) + epoch + 1)

    def cut(window: tf.Tensor, sizes: tf.Tensor) -> tf.data.Dataset:
        start, stop, token = window[0], window[1], window[2]

        def check(step: tf.Tensor, batch: Any) -> Any:
            with tf.control_dependencies([_driven(token, step)]):
                return keras.tree.map_structure(tf.identity, batch)

        epochs = tf.data.Dataset.range(start // count, -(-stop // count)).flat_map(examples)
        chosen = epochs.skip(start % count).take(stop - start).batch(_CHUNK)
        return chosen.rebatch(sizes).enumerate().map(check)

    stream.dataset = _finished(stream._windows().flat_map(cut))
    return stream


def _finished(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.prefetch(_PREFETCH).with_options(fixed_options())


def _driven(token: tf.Tensor, step: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert((token > 0) | (step == 0), [UNDRIVEN])


def _as_array(array: Any) -> npt.NDArray[Any]:
    """As Keras takes arrays: floating point in the precision of `keras.config.floatx()`."""
    found: npt.NDArray[Any] = np.asarray(array)
    if found.dtype == np.float64:
        found = found.astype(keras.config.floatx())
    return found


def _as_tensor(array: npt.NDArray[Any]) -> tf.Tensor:
    if array.dtype.kind in "fiu":
        return as_tensor(array)
    with tf.device("CPU:0"):
        return tf.constant(array)
