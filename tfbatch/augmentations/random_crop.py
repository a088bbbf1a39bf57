"""Pads each image with zeros and crops it back at a random place.

In a recipe:

    augmentation:
      - {name: random_crop, padding: 4}
"""

from __future__ import annotations

import tensorflow as tf
from pydantic import Field

from tfbatch.augmentations._draws import place_type
from tfbatch.schema import Strict

ON_DEVICE = True


class Parameters(Strict):
    """Parameters of a recipe.

    Attributes:
        padding: Pixels added on each side.
    """

    padding: int = Field(default=4, ge=1)


def augment(images: tf.Tensor, draws: tf.Tensor, parameters: Parameters) -> tf.Tensor:
    """See tfbatch.augmentations; the first two words choose row and column."""
    padding = parameters.padding
    places = 2 * padding + 1
    whole = place_type(images)
    offset = tf.cast(draws[:, :2] % tf.constant(places, tf.uint32), whole)  # [batch, 2]
    height, width = images.shape[1], images.shape[2]
    padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    rows = tf.gather(
        padded, offset[:, 0, None] + tf.range(height, dtype=whole), axis=1, batch_dims=1
    )
    if images.dtype != tf.uint8:  # on a GPU a partition would wait for the host
        columns = offset[:, 1, None] + tf.range(width, dtype=whole)
        return tf.gather(rows, columns, axis=2, batch_dims=1)
    # The images of one column offset are cut together: whole rows are copied, never pixels.
    groups = tf.dynamic_partition(tf.range(tf.shape(images)[0]), offset[:, 1], places)
    cut = [tf.gather(rows, group)[:, :, k : k + width] for k, group in enumerate(groups)]
    return tf.dynamic_stitch(groups, cut)
