"""Fills a random rectangle of some images (Zhong et al. 2017, arXiv 1708.04896).

In a recipe:

    augmentation:
      - {name: random_erasing, probability: 0.5, area: [0.02, 0.4], aspect: [0.3, 3.3]}

The area is uniform in its range, and so is the logarithm of the aspect. Where a rectangle does not
fit, the paper draws again; here it gets the nearest aspect with which its area fits.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import tensorflow as tf
from pydantic import Field, field_validator

from tfbatch.augmentations._draws import look_up, place_type, quantiles, uniform
from tfbatch.augmentations._rectangle import Span, fill_rectangle
from tfbatch.schema import Strict

ON_DEVICE = True

Share = Annotated[float, Field(gt=0, le=1)]
Aspect = Annotated[float, Field(gt=0)]


class Parameters(Strict):
    """Parameters of a recipe.

    Attributes:
        probability: Share of the images with a rectangle.
        area: Smallest and largest share of the image that is filled, before the sides are rounded
            to whole pixels.
        aspect: Smallest and largest height / width of the rectangle.
        fill: "random" for a random value in each pixel and channel, the best in the paper, or one
            value from 0 to 255 for all.
    """

    probability: float = Field(default=0.5, gt=0, le=1)
    area: tuple[Share, Share] = (0.02, 0.4)
    aspect: tuple[Aspect, Aspect] = (0.3, 1 / 0.3)
    fill: Literal["random"] | int = "random"

    @field_validator("area", "aspect")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("must be [smallest, largest]")
        return value

    @field_validator("fill", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        a_pixel = type(value) is int and 0 <= value <= 255
        if value != "random" and not a_pixel:
            raise ValueError("must be `random` or a whole number from 0 to 255")
        return value


def augment(images: tf.Tensor, draws: tf.Tensor, parameters: Parameters) -> tf.Tensor:
    """See tfbatch.augmentations; the words choose whether, area, aspect, and place.

    The upper half of the last word chooses the row and its lower half the column.
    """
    _, height, width, _ = images.shape
    whole = place_type(images)
    rows, columns = (tf.cast(side, whole) for side in _sides(draws, height, width, parameters))
    erased = uniform(draws[:, 0]) < parameters.probability
    row = tf.bitwise.right_shift(draws[:, 3], tf.constant(16, tf.uint32))
    column = draws[:, 3] % tf.constant(2**16, tf.uint32)
    top = tf.cast(row, whole) % (height - rows + 1)
    left = tf.cast(column, whole) % (width - columns + 1)
    if parameters.fill == "random":
        fill = tf.cast(_noise(draws[:, 0], images.shape[1:]), images.dtype)
    else:
        fill = tf.constant(parameters.fill, images.dtype)
    return fill_rectangle(
        images, Span(top, tf.where(erased, rows, tf.zeros([], whole))), Span(left, columns), fill
    )


def _sides(
    draws: tf.Tensor, height: int, width: int, parameters: Parameters
) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows and columns of each rectangle, whole float32 [batch], from 1 to those of the image."""
    smallest, largest = parameters.area
    area = height * width * (smallest + uniform(draws[:, 1]) * (largest - smallest))
    flattest, tallest = parameters.aspect
    table = (flattest * (tallest / flattest) ** quantiles()).astype(np.float32)
    aspect = tf.maximum(look_up(table, draws[:, 2]), area / width**2)
    aspect = tf.minimum(aspect, height**2 / area)
    rows = tf.minimum(tf.maximum(tf.round(tf.sqrt(area * aspect)), 1.0), height)
    # Of the rounded rows, so that the area is off by half a row at the most.
    columns = tf.minimum(tf.maximum(tf.round(area / rows), 1.0), width)
    return rows, columns


def _noise(words: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """Uniform uint8 [batch, *shape] of one word for each image.

    Each four bytes are the finalizer of MurmurHash3 (Appleby 2011) of the word and their number.
    """
    size = shape.num_elements()
    number = np.arange(-(-size // 4), dtype=np.uint64) * 0x9E3779B9 % 2**32
    mixed = tf.bitwise.bitwise_xor(words[:, None], number.astype(np.uint32)[None, :])
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        shifted = tf.bitwise.right_shift(mixed, tf.constant(shift, tf.uint32))
        mixed = tf.bitwise.bitwise_xor(mixed, shifted)
        if factor != 1:
            mixed *= tf.constant(factor, tf.uint32)
    values = tf.reshape(tf.bitcast(mixed, tf.uint8), [-1, 4 * len(number)])
    return tf.reshape(values[:, :size], [-1, *shape])
