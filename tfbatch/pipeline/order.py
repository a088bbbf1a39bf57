"""The order of a training stream: one permutation for each epoch, from the seed alone."""

from __future__ import annotations

import tensorflow as tf


def shuffled_indices(
    num_examples: int, *, batch_size: tf.Tensor, seed: tf.Tensor, start: tf.Tensor, stop: tf.Tensor
) -> tf.data.Dataset:
    """Yields the indices of each batch, int32 [batch], of the stream from `start` to `stop`.

    The stream is one permutation of the examples after the other, a new one for each epoch. It
    depends on the seed alone: batches are cut from the same order whatever their size, and reach
    over the ends of epochs. The numbers are int64 scalars.
    """

    def order(epoch: tf.Tensor) -> tf.Tensor:
        before = epoch * num_examples
        chosen = permutation(num_examples, epoch=epoch, seed=seed)
        return chosen[tf.maximum(start - before, 0) : stop - before]

    epochs = tf.data.Dataset.range(start // num_examples, -(-stop // num_examples))
    # The next epoch's order is made while this one is in use.
    return epochs.map(order).prefetch(1).rebatch(batch_size)


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
