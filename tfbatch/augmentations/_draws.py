"""From random words to real numbers, the same to the last bit whatever the batch size.

TensorFlow's kernels for exp, log, sin and cos work on several elements at once and finish a batch
with other code, whose last bits differ (seen with TensorFlow 2.21 on x86: up to a quarter of the
elements). So does a sum of rounded products. Tables made once, sums and products of whole numbers,
and single additions, multiplications, divisions and square roots do not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

TABLE_BITS = 14
_TABLE_SIZE = 2**TABLE_BITS


def uniform(words: tf.Tensor) -> tf.Tensor:
    """The upper 24 bits of uint32 words as float32 in [0, 1): all that float32 holds exactly."""
    return tf.cast(tf.bitwise.right_shift(words, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def place_type(images: tf.Tensor) -> tf.DType:
    """The type of places in images: of float32 ones int64, since GPUs leave int32 to the host."""
    return tf.int32 if images.dtype == tf.uint8 else tf.int64


def quantiles() -> npt.NDArray[np.float64]:
    """The middles of 2**TABLE_BITS equal parts of [0, 1], for a function that makes a table."""
    middles: npt.NDArray[np.float64] = (np.arange(_TABLE_SIZE) + 0.5) / _TABLE_SIZE
    return middles


def look_up(table: npt.NDArray[np.float32], words: tf.Tensor) -> tf.Tensor:
    """For each uint32 word the entry of a table of 2**TABLE_BITS that its upper bits choose."""
    place = tf.bitwise.right_shift(words, tf.constant(32 - TABLE_BITS, tf.uint32))
    return tf.gather(tf.constant(table, tf.float32), tf.cast(place, tf.int32))
