"""Sets one random square of each image to zero (DeVries & Taylor 2017, arXiv 1708.04552).

In a recipe:

    augmentation:
      - {name: cutout, size: 8}
"""

from __future__ import annotations

import tensorflow as tf
from pydantic import Field

from tfbatch.augmentations._draws import place_type
from tfbatch.augmentations._rectangle import Span, fill_rectangle
from tfbatch.schema import Strict

ON_DEVICE = True


class Parameters(Strict):
    """Parameters of a recipe.

    Attributes:
        size: Side of the square in pixels; squares that reach over the border are cut off there.
    """

    size: int = Field(default=8, ge=1)


def augment(images: tf.Tensor, draws: tf.Tensor, parameters: Parameters) -> tf.Tensor:
    """See tfbatch.augmentations; the first two words choose the square's center."""
    size = parameters.size
    rows, columns = (
        Span(tf.cast(_centre(draws, axis, images), place_type(images)) - size // 2, size)
        for axis in (0, 1)
    )
    return fill_rectangle(images, rows, columns, tf.zeros([], images.dtype))


def _centre(draws: tf.Tensor, axis: int, images: tf.Tensor) -> tf.Tensor:
    return draws[:, axis] % tf.constant(images.shape[1 + axis], tf.uint32)
