"""Sets one random square of each image to zero (DeVries & Taylor 2017, arXiv 1708.04552)."""

from __future__ import annotations

import tensorflow as tf
from pydantic import Field

from tfbatch.schema import Strict


class Parameters(Strict):
    """Parameters of a recipe.

    Attributes:
        size: Side of the square in pixels; squares that reach over the border are cut off there.
    """

    size: int = Field(default=8, ge=1)


def augment(images: tf.Tensor, draws: tf.Tensor, parameters: Parameters) -> tf.Tensor:
    """See tfbatch.augmentations; the first two words choose the square's centre."""
    rows = _inside(draws[:, 0], images.shape[1], parameters.size)
    columns = _inside(draws[:, 1], images.shape[2], parameters.size)
    square = rows[:, :, None, None] & columns[:, None, :, None]
    return tf.where(square, tf.zeros([], images.dtype), images)


def _inside(words: tf.Tensor, length: int, size: int) -> tf.Tensor:
    """Bool [batch, length]: which rows (or columns) the square covers."""
    centre = tf.cast(words % tf.constant(length, tf.uint32), tf.int32)
    first = centre[:, None] - size // 2
    place = tf.range(length)[None, :]
    return (place >= first) & (place < first + size)
