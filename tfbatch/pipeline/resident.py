"""Decoded data in memory as uint8, batched by index with one gather for a batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.pipeline.batches import PARALLEL_CALLS


class ResidentSplit:
    """One split in memory.

    Args:
        images: uint8 [examples, height, width, channels].
        labels: int32 [examples].
    """

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32]):
        with tf.device("CPU:0"):
            self._images = tf.constant(images)
            self._labels = tf.constant(labels)
        self.num_examples = len(labels)

    def training(self, *, batch_size: int, seed: int, start: int, stop: int) -> tf.data.Dataset:
        """Yields (images, labels, position) for the stream's examples from `start` to `stop`.

        The stream is one permutation of the split after the other, a new one for each epoch. It
        depends on the seed alone: batches are cut from the same order whatever their size.
        """
        epochs = range(start // self.num_examples, -(-stop // self.num_examples))
        indices = tf.data.Dataset.range(epochs.start, epochs.stop).map(
            lambda epoch: self._permutation(epoch, seed)
        )
        if start % self.num_examples:  # continuing inside an epoch
            indices = indices.unbatch().skip(start % self.num_examples)
            indices = indices.batch(batch_size)
        else:
            indices = indices.rebatch(batch_size)
        steps = -(-(stop - start) // batch_size)

        def gather(step: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, ...]:
            position = start + step * batch_size
            chosen = chosen[: tf.maximum(stop - position, 0)]
            return (
                tf.gather(self._images, chosen),
                tf.gather(self._labels, chosen),
                position,
            )

        dataset = indices.take(steps).enumerate().map(gather, num_parallel_calls=PARALLEL_CALLS)
        return dataset.apply(tf.data.experimental.assert_cardinality(steps))

    def in_order(self, *, batch_size: int) -> tf.data.Dataset:
        """Yields (images, labels) of the whole split once, in the order of the records."""
        ends = tf.data.Dataset.range(0, self.num_examples, batch_size)
        return ends.map(
            lambda low: (
                self._images[low : low + batch_size],
                self._labels[low : low + batch_size],
            )
        )

    def _permutation(self, epoch: tf.Tensor, seed: int) -> tf.Tensor:
        # Not tf.random.experimental.index_shuffle: with neighbouring seeds its permutations
        # are far from uniform (tests/test_traps.py). Sorting 64 random bits is.
        bits = tf.random.stateless_uniform(
            [self.num_examples],
            seed=tf.stack([tf.convert_to_tensor(seed, tf.int64), epoch]),
            minval=None,
            maxval=None,
            dtype=tf.int64,
        )
        return tf.argsort(bits)
