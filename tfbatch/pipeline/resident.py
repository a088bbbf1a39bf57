"""Decoded data in memory as uint8, batched by index with one gather for a batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.pipeline.batches import Finish, parallel_calls, unfinished
from tfbatch.pipeline.order import shuffled_indices
from tfbatch.pipeline.zero_copy import as_tensor


class ResidentSplit:
    """One split in memory.

    Args:
        images: uint8 [examples, height, width, channels]; used where it is, see `as_tensor`.
        labels: int32 [examples].
    """

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32]):
        self._shape = images.shape[1:]
        # As rows: a gather then copies one stretch of memory for each example.
        self._rows = as_tensor(images.reshape(len(images), -1))
        self._labels = as_tensor(labels)
        self.num_examples = len(labels)

    def training(
        self,
        *,
        batch_size: tf.Tensor,
        seed: tf.Tensor,
        start: tf.Tensor,
        stop: tf.Tensor,
        finish: Finish = unfinished,
    ) -> tf.data.Dataset:
        """Yields `finish(images, labels, position)` of the stream from `start` to `stop`.

        The stream is one permutation of the split after the other, a new one for each epoch. It
        depends on the seed alone: batches are cut from the same order whatever their size. The
        numbers are integers, or int64 scalars of a graph.
        """
        batch_size, seed, start, stop = (
            tf.convert_to_tensor(x, tf.int64) for x in (batch_size, seed, start, stop)
        )

        def gather(step: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, ...]:
            images = tf.reshape(tf.gather(self._rows, chosen), [-1, *self._shape])
            return finish(images, tf.gather(self._labels, chosen), start + step * batch_size)

        indices = shuffled_indices(
            self.num_examples, batch_size=batch_size, seed=seed, start=start, stop=stop
        )
        dataset = indices.enumerate().map(gather, num_parallel_calls=parallel_calls())
        steps = -((start - stop) // batch_size)
        return dataset.apply(tf.data.experimental.assert_cardinality(steps))

    def in_order(self, *, batch_size: int) -> tf.data.Dataset:
        """Yields (images, labels) of the whole split once, in the order of the records."""

        def cut(low: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = self._rows[low : low + batch_size]
            return tf.reshape(rows, [-1, *self._shape]), self._labels[low : low + batch_size]

        return tf.data.Dataset.range(0, self.num_examples, batch_size).map(cut)
