"""Data in a device's memory: a training's own graph makes its batches there.

A stream then carries which examples come next, 8 bytes for each, and not the examples. They are
gathered, augmented and normalized in the graph that trains, once for all steps of an execution. The
order, the draws and the bytes of what is stored are those of the host's pipeline; what is computed
in floats there and here may differ in the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.pipeline.elements import Nest
from tfbatch.pipeline.streams import Stretch, as_tensor, fixed_options, shuffled_indices
from tfbatch.pipeline.trainable_data import EVALUATION_BATCH_SIZE

_WORD = np.dtype(np.int64)
"""What memory is gathered in: TensorFlow's GPUs have no gather of uint8, and pin int32 to the host.
"""
_AT_ONCE_BYTES = 64 << 20
"""Examples of one execution up to this size, as they are trained on, are made at once."""


class StaysOnHostError(Exception):
    """Data that a training's graph cannot make batches of; its text is the reason."""


class ShuffledBy(NamedTuple):
    """What the streams of one seed depend on.

    Attributes:
        seeds: Of the order of each stream, int64 [streams]: a second one gives partners.
        keys: Of the draws of each augmentation of each stream, uint64 [streams, augmentations].
    """

    seeds: npt.NDArray[np.int64]
    keys: npt.NDArray[np.uint64]


class DeviceForm(NamedTuple):
    """What a data set says of itself, so that a graph can make its batches.

    Attributes:
        num_examples: Number of examples of each split.
        example_bytes: Bytes of one example as it is stored.
        batch_bytes: Bytes of one example as a model gets it.
        arrays: `arrays(split)`: the arrays of a split, examples in the first dimension.
        shuffled_by: `shuffled_by(seed)`.
        finish: `finish(streams, position, keys, training)`: a batch, from the gathered arrays of
            each stream, the number of examples before it, and `ShuffledBy.keys`.
    """

    num_examples: dict[str, int]
    example_bytes: int
    batch_bytes: int
    arrays: Callable[[str], Sequence[npt.NDArray[Any]]]
    shuffled_by: Callable[[int], ShuffledBy]
    finish: Callable[[list[list[tf.Tensor]], tf.Tensor, tf.Tensor, bool], Nest]

    @property
    def stored_bytes(self) -> int:
        """Bytes of all splits."""
        return self.example_bytes * sum(self.num_examples.values())


class Chosen(tf.experimental.ExtensionType):  # type: ignore[misc]
    """An element of a stream: which examples the steps of one execution are made of.

    Attributes:
        examples: Their numbers in the split, in each stream, int64 [streams, examples].
        position: Number of examples that the stream gave before, int64.
        batch_size: Examples in a batch, int32; only the last one can be short.
        keys: See `ShuffledBy`.
        split: The split.
        training: Whether they are augmented.
        whole: Whether they are made at once and then cut into batches: each operation on a device
            costs microseconds, however small its batch.
        repeated: Examples in the one batch that all steps get, made before them; 0 for the
            examples that are chosen.
    """

    examples: tf.Tensor
    position: tf.Tensor
    batch_size: tf.Tensor
    keys: tf.Tensor
    split: str
    training: bool
    whole: bool
    repeated: int = 0


def gives_chosen(iterator: object) -> bool:
    """Whether an iterator gives `Chosen`, and not batches."""
    return isinstance(getattr(iterator, "element_spec", None), Chosen.Spec)


class Block:
    """The batches of one execution, in a graph.

    Args:
        chosen: What they are made of.
        make: `make(numbers, position)`: a batch of examples.
    """

    def __init__(self, chosen: Chosen, make: Callable[[tf.Tensor, tf.Tensor], Nest]):
        self._chosen = chosen
        self._make = make
        self._size = tf.shape(chosen.examples)[1]
        self.steps = -(-self._size // chosen.batch_size)
        self._made = None
        if chosen.whole:
            made = make(chosen.examples, chosen.position)
            self._dtypes = keras.tree.map_structure(lambda leaf: leaf.dtype, made)
            self._made = keras.tree.map_structure(_carried, made)

    def batch(self, step: tf.Tensor | int) -> Nest:
        """The batch of a step, counted from 0, as the host's stream would give it."""
        low = step * self._chosen.batch_size
        high = tf.minimum(low + self._chosen.batch_size, self._size)
        if self._made is None:
            position = self._chosen.position + tf.cast(low, tf.int64)
            return self._make(self._chosen.examples[:, low:high], position)
        cut: Nest = keras.tree.map_structure(
            lambda leaf, dtype: _uncarried(leaf[low:high], dtype), self._made, self._dtypes
        )
        return cut


def _carried(leaf: tf.Tensor) -> tf.Tensor:
    """What a loop holds and cuts on a device: int32 it would hold, and cut, on the host."""
    return tf.bitcast(leaf, tf.float32) if leaf.dtype == tf.int32 else leaf


def _uncarried(leaf: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.bitcast(leaf, dtype) if leaf.dtype != dtype else leaf


class HeldData:
    """A data set in a device's memory. Splits are copied there when they are first asked for.

    Args:
        form: What the data says of itself.
        device: Name of the device, such as "GPU:0".
    """

    def __init__(self, form: DeviceForm, device: str):
        self.form = form
        self.device = device
        self._leaves: dict[str, list[_HeldLeaf]] = {}
        self._evaluations: dict[str, tf.data.Dataset] = {}
        self._repeated: dict[int, Nest] = {}  # kept by the traces of them too
        # Traced twice at most: every size and seed is a tensor, so a further stream costs
        # milliseconds.
        self._stream = tf.function(self._make_stream, autograph=False)

    def training(
        self, *, batch_size: int, seed: int, num_examples: int, start: int = 0, at_once: int
    ) -> tf.data.Dataset:
        """The stream of `Data.training` as `Chosen`, one for each execution.

        Its length is not known to Keras, which would take it for the number of batches.

        Args:
            batch_size: Examples in a batch.
            seed: Of the stream.
            num_examples: Length of the whole stream, in examples.
            start: Examples to leave out at the beginning.
            at_once: Steps in an execution, `model.steps_per_execution`.
        """
        self._held("train")  # now: what is made while a graph is traced is that graph's
        whole = batch_size * at_once * self.form.batch_bytes <= _AT_ONCE_BYTES
        with tf.device("CPU:0"):
            sizes = tf.constant([batch_size, at_once, start, num_examples], tf.int64)
            seeds, keys = map(tf.constant, self.form.shuffled_by(seed))
            stream = self._stream(sizes, seeds, keys, whole=whole)
        return stream.prefetch(2).with_options(fixed_options())

    def repeated(self, *, batch_size: int, executions: int, at_once: int) -> tf.data.Dataset:
        """One batch for all steps, made once: what a training takes without its input.

        Args:
            batch_size: Examples in the batch.
            executions: Number of executions.
            at_once: Steps in each, `model.steps_per_execution`.
        """
        self._held("train")
        with tf.device("CPU:0"):
            chosen = Chosen(
                tf.zeros([1, batch_size * at_once], tf.int64),
                tf.constant(0, tf.int64),
                tf.constant(batch_size),
                tf.constant(self.form.shuffled_by(0).keys),
                "train",
                True,
                False,
                repeated=batch_size,
            )
            stream = tf.data.Dataset.from_tensors(chosen).repeat(executions)
            # Its length is then unknown: Keras would take it for the number of batches.
            stream = stream.take_while(lambda _: True)
        return stream.prefetch(2).with_options(fixed_options())

    def evaluation(self, split: str) -> tf.data.Dataset:
        """Every example of a split once, in order, as one `Chosen` for each batch."""
        if split not in self._evaluations:
            self._held(split)
            count, size = self.form.num_examples[split], EVALUATION_BATCH_SIZE
            keys = self.form.shuffled_by(0).keys[:1]

            def choose(low: tf.Tensor) -> Chosen:
                numbers = tf.range(low, tf.minimum(low + size, count))[None, :]
                return Chosen(numbers, low, tf.constant(size), keys, split, False, False)

            with tf.device("CPU:0"):
                lows = tf.data.Dataset.range(0, count, size)
                self._evaluations[split] = (
                    lows.map(choose).prefetch(2).with_options(fixed_options())
                )
        return self._evaluations[split]

    def block(self, chosen: Chosen) -> Block:
        """The batches of one element of a stream, in the graph that is traced."""
        leaves, training = self._held(chosen.split), chosen.training
        if chosen.repeated:
            batch = self._first(chosen)
            return Block(chosen, lambda numbers, position: batch)

        def make(numbers: tf.Tensor, position: tf.Tensor) -> Nest:
            streams = [
                [leaf.gather(of_stream) for leaf in leaves]
                for of_stream in tf.unstack(numbers, num=numbers.shape[0])
            ]
            return self.form.finish(streams, position, chosen.keys, training)

        return Block(chosen, make)

    def _first(self, chosen: Chosen) -> Nest:
        """The first examples of a split as a batch, which lies on the device before any step."""
        if chosen.repeated not in self._repeated:
            with tf.init_scope(), tf.device(self.device):
                keys = self.form.shuffled_by(0).keys
                numbers = tf.range(chosen.repeated, dtype=tf.int64)
                numbers %= self.form.num_examples[chosen.split]
                stream = [leaf.gather(numbers) for leaf in self._held(chosen.split)]
                self._repeated[chosen.repeated] = self.form.finish(
                    [stream] * len(keys),
                    tf.constant(0, tf.int64),
                    tf.constant(keys),
                    chosen.training,
                )
        return self._repeated[chosen.repeated]

    def _make_stream(
        self, sizes: tf.Tensor, seeds: tf.Tensor, keys: tf.Tensor, *, whole: bool
    ) -> tf.data.Dataset:
        batch_size, at_once, start, stop = tf.unstack(sizes)
        size = batch_size * at_once
        streams = tuple(
            shuffled_indices(self.form.num_examples["train"], Stretch(size, seed, start, stop))
            for seed in tf.unstack(seeds)
        )

        def choose(number: tf.Tensor, chosen: tuple[tf.Tensor, ...]) -> Chosen:
            return Chosen(
                tf.cast(tf.stack(chosen), tf.int64),
                start + number * size,
                tf.cast(batch_size, tf.int32),
                keys,
                "train",
                True,
                whole,
            )

        return tf.data.Dataset.zip(streams).enumerate().map(choose)

    def _held(self, split: str) -> list[_HeldLeaf]:
        if split not in self._leaves:
            with tf.init_scope():
                arrays = self.form.arrays(split)
                self._leaves[split] = [_HeldLeaf(array, self.device) for array in arrays]
        return self._leaves[split]


class _HeldLeaf:
    """One array of a split in a device's memory, bytes as they are, in rows of whole words."""

    def __init__(self, array: npt.NDArray[Any], device: str):
        self._shape = array.shape[1:]
        self._dtype = tf.as_dtype(array.dtype)
        rows = np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
        self._bytes = rows.shape[1]
        if left := -self._bytes % _WORD.itemsize:
            rows = np.pad(rows, [(0, 0), (0, left)])
        with tf.device(device):
            # Of the host's own memory no copy is made.
            self._words = tf.identity(as_tensor(rows.view(_WORD)))

    def gather(self, chosen: tf.Tensor) -> tf.Tensor:
        """The examples of these numbers, int64 [batch], in their own type and shape."""
        rows = tf.gather(self._words, chosen)
        # Cut in a type that a device cuts itself.
        stored = {tf.bool: tf.uint8, tf.int32: tf.float32}.get(self._dtype, self._dtype)
        if stored.size < _WORD.itemsize:
            values = self._words.shape[1] * _WORD.itemsize // stored.size
            rows = tf.reshape(tf.bitcast(rows, stored), [-1, values])
            if values * stored.size != self._bytes:
                rows = rows[:, : self._bytes // stored.size]
        else:
            rows = tf.bitcast(rows, stored)
        examples = tf.reshape(rows, [-1, *self._shape])
        if self._dtype == tf.bool:
            return tf.cast(examples, tf.bool)
        return examples if stored == self._dtype else tf.bitcast(examples, self._dtype)


def check_can_be_held(dtype: str, shape: Sequence[int | None], *, what: str) -> None:
    """Refuses examples that have no fixed number of bytes.

    Raises:
        StaysOnHostError: Text, or a length that differs from example to example.
    """
    if dtype == "string":
        raise StaysOnHostError(f"{what} is text")
    if None in shape:
        raise StaysOnHostError(f"{what} differs in length from example to example")
    size = math.prod(int(side or 0) for side in shape) * np.dtype(dtype).itemsize
    if not size or np.dtype(dtype).itemsize > _WORD.itemsize:
        raise StaysOnHostError(f"{what} is {dtype} {list(shape)}")
