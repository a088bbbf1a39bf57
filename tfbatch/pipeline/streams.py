"""What all streams of batches share: their order, sizes, options and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy.typing as npt
import tensorflow as tf

from tfbatch.process.limits import affinity

Finish = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]
"""(images, labels, position) of a batch to what the stream yields. It runs where the batch is
read or gathered: each further stage of a pipeline adds milliseconds to its start.
"""
_CHUNK_BYTES = 3 << 20
_CHUNK_EXAMPLES = 4096
_PREFETCH_BYTES = 32 << 20
_PREFETCH_BATCHES = (2, 64)
_ALIGNMENT = 64
"""TensorFlow's kernels refuse memory that does not begin at a multiple of this."""


class Stretch(NamedTuple):
    """What is taken of the endless stream of shuffled examples: int64 scalars, also of a graph.

    The stream is one order of the split after the other, a new one for each epoch. It depends on
    the seed alone: batches are cut from the same order whatever their size, and reach over the
    ends of epochs.

    Attributes:
        batch_size: Examples in a batch; only the last one can be short.
        seed: Decides the order.
        start: The first example, counted from the beginning of the stream.
        stop: The end, exclusive.
    """

    batch_size: tf.Tensor
    seed: tf.Tensor
    start: tf.Tensor
    stop: tf.Tensor

    def epochs(self, num_examples: int) -> tf.data.Dataset:
        """The numbers of the epochs that it reaches into."""
        return tf.data.Dataset.range(self.start // num_examples, -(-self.stop // num_examples))


def shuffled_indices(num_examples: int, stretch: Stretch) -> tf.data.Dataset:
    """Yields the indices of each batch, int32 [batch]: an epoch is a permutation."""

    def order(epoch: tf.Tensor) -> tf.Tensor:
        before = epoch * num_examples
        chosen = permutation(num_examples, epoch=epoch, seed=stretch.seed)
        return chosen[tf.maximum(stretch.start - before, 0) : stretch.stop - before]

    # The next epoch's order is made while this one is in use.
    return stretch.epochs(num_examples).map(order).prefetch(1).rebatch(stretch.batch_size)


def permutation(num_examples: int, *, epoch: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A permutation of `num_examples`, int32, uniform and different for each epoch and seed."""
    # Not tf.random.experimental.index_shuffle: with neighboring seeds its permutations
    # are far from uniform (tests/test_traps.py). Sorting 64 random bits is.
    bits = tf.random.stateless_uniform(
        [num_examples],
        seed=tf.stack([tf.convert_to_tensor(seed, tf.int64), epoch]),
        minval=None,
        maxval=None,
        dtype=tf.int64,
    )
    # tf.argsort of the same, in fewer operations: each costs time when a stream starts.
    return tf.math.top_k(tf.bitwise.invert(bits), num_examples).indices


def fixed_options() -> tf.data.Options:
    """Options with autotuning and graph rewriting off.

    With autotuning, tearing an iterator down waits for its thread until about 5 s after it was
    made, at the end of every `fit` (seen with TensorFlow 2.21). The default rewriting copies every
    tensor that a stream captures, resident data included, and takes longer than the first batch.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    options.experimental_optimization.apply_default_optimizations = False
    return options


def unfinished(images: tf.Tensor, labels: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The `Finish` that changes nothing."""
    return images, labels, position


def parallel_calls() -> int:
    """One call for each core that this process may use, or fewer if TensorFlow is told fewer."""
    cores = len(affinity())
    return min(cores, tf.config.threading.get_inter_op_parallelism_threads() or 16, 16)


def batches_in_chunk(batch_size: int, *, pixels: int) -> int:
    """How many batches are made at once, to be cut apart without a copy.

    An element of a pipeline costs about 0.1 ms of a core however small it is. A chunk has whole
    batches and about 3 MB as float32, which a core's cache still holds in part.

    Args:
        batch_size: Examples in a batch.
        pixels: Values in an image: height x width x channels.
    """
    examples = min(_CHUNK_BYTES // (4 * pixels), _CHUNK_EXAMPLES)
    return max(1, examples // batch_size)


def prefetched(dataset: tf.data.Dataset, *, batch_bytes: int) -> tf.data.Dataset:
    """The end of every pipeline: a fixed prefetch, of about 32 MB, and fixed options."""
    fewest, most = _PREFETCH_BATCHES
    depth = min(max(_PREFETCH_BYTES // batch_bytes, fewest), most)
    return dataset.prefetch(depth).with_options(fixed_options())


def as_tensor(array: npt.NDArray[Any]) -> tf.Tensor:
    """A tensor on the CPU that reads the array's own memory, where the array allows it.

    So a memory-mapped file stays one copy for all processes. The array must not be changed later.
    """
    usable = array.flags.c_contiguous and array.flags.writeable
    if usable and array.ctypes.data % _ALIGNMENT == 0:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    with tf.device("CPU:0"):
        return tf.constant(array)
