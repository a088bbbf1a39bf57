"""Changes brightness, contrast, saturation and hue of each image at random, in this order.

In a recipe:

    augmentation:
      - {name: colour, brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.05}

Each image draws a factor of its own for each property, and is clipped and rounded once, at the end:

    def colour(image, brightness, contrast, saturation, angle):  # float [pixels, 3]
        image = brightness * image
        grey = (image @ LUMA).mean()
        image = grey + contrast * (image - grey)
        grey = (image @ LUMA)[:, None]
        image = grey + saturation * (image - grey)
        y, i, q = YIQ @ image.T
        i, q = cos(angle) * i - sin(angle) * q, sin(angle) * i + cos(angle) * q
        return (inverse(YIQ) @ [y, i, q]).T.round().clip(0, 255)

Brightness, contrast and saturation are those of PIL.ImageEnhance; the hue is turned in the colour
space of NTSC television, as `hueRotate` of CSS does, and keeps the luma. On grey images of one
channel these formulas leave saturation and hue without effect; a fourth channel (alpha) is kept.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from pydantic import Field, model_validator

from tfbatch.augmentations._draws import look_up, quantiles, uniform
from tfbatch.schema import Strict

ON_DEVICE = True

YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_GREY = np.outer(np.ones(3), YIQ[0])
"""Red, green and blue to the luma in all three."""
_TURN = np.linalg.inv(YIQ) @ np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ YIQ
"""Turns the chroma by a quarter of the circle; the luma is lost."""
_STEPS = 2.0**13
"""Of a matrix's entries to 1: sums of their products with pixels are below 2**24 and thus exact."""


class Parameters(Strict):
    """Parameters of a recipe; each image's own numbers are uniform.

    Attributes:
        brightness: The factor is within 1 - brightness and 1 + brightness.
        contrast: The same for the distance from the image's mean luma.
        saturation: The same for the distance from each pixel's luma.
        hue: Largest turn of the hue, either way, as a share of the whole circle.
    """

    brightness: float = Field(default=0.4, ge=0, le=1)
    contrast: float = Field(default=0.4, ge=0, le=1)
    saturation: float = Field(default=0.4, ge=0, le=1)
    hue: float = Field(default=0.0, ge=0, le=0.5)

    @model_validator(mode="after")
    def _changes_something(self) -> Parameters:
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            raise ValueError(
                "one of brightness, contrast, saturation and hue must be greater than 0. "
                "Received: 0 for all"
            )
        return self


def augment(images: tf.Tensor, draws: tf.Tensor, parameters: Parameters) -> tf.Tensor:
    """See tfbatch.augmentations; one word for each property, in their order."""
    _, height, width, channels = images.shape
    if channels > 3:
        changed = augment(images[..., :3], draws, parameters)
        return tf.concat([changed, images[..., 3:]], axis=-1)
    either_way = 2 * uniform(draws[:, :3]) - 1
    brightness = 1 + parameters.brightness * either_way[:, 0, None]
    contrast = 1 + parameters.contrast * either_way[:, 1, None]
    saturation = 1 + parameters.saturation * either_way[:, 2, None, None]
    values = tf.cast(tf.reshape(images, [-1, height * width, channels]), tf.float32)
    # All four are linear, and the last two keep the luma: they can as well come first.
    if channels == 3 and (parameters.saturation or parameters.hue):
        product = tf.matmul if images.dtype == tf.uint8 else _exact_product
        values = product(values, _matrix(saturation, draws[:, 3], parameters.hue))
    # As rows: one number for a whole row is broadcast fast.
    rows = tf.reshape(values, [-1, height * width * channels])
    grey = brightness * (1 - contrast) * _mean_luma(images)[:, None]
    rounded = _rounded if images.dtype == tf.uint8 else _rounded_floats
    return tf.reshape(rounded(rows * (brightness * contrast) + grey), tf.shape(images))


def _matrix(saturation: tf.Tensor, words: tf.Tensor, hue: float) -> tf.Tensor:
    """Saturation, then hue, for rows of red, green and blue: float32 [batch, 3, 3]."""
    angle = 2 * math.pi * hue * (2 * quantiles() - 1)
    cosine, sine = (look_up(f(angle), words)[:, None, None] for f in (np.cos, np.sin))
    grey, chroma, turn = (m.T.astype(np.float32) for m in (_GREY, np.eye(3) - _GREY, _TURN))
    matrix = grey + saturation * (cosine * chroma + sine * turn)
    return tf.round(matrix * _STEPS) / _STEPS


def _mean_luma(images: tf.Tensor) -> tf.Tensor:
    """float32 [batch]; summed in whole numbers."""
    _, height, width, channels = images.shape
    weights = np.rint(1000 * YIQ[0]) if channels == 3 else np.array([1000])
    whole = tf.int32 if images.dtype == tf.uint8 else tf.int64
    sums = tf.reduce_sum(tf.cast(images, whole), axis=[1, 2])
    total = tf.reduce_sum(tf.cast(sums, tf.int64) * weights.astype(np.int64), axis=1)
    return tf.cast(total, tf.float32) / (1000 * height * width)


def _exact_product(values: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """The product as sums, which are exact: GPUs multiply matrices in fewer bits (TF32)."""
    parts = [values[:, :, k, None] * matrix[:, k, None, :] for k in range(3)]
    return parts[0] + parts[1] + parts[2]


def _rounded_floats(values: tf.Tensor) -> tf.Tensor:
    """The same as `_rounded`, in float32."""
    return tf.floor(tf.clip_by_value(values, 0.0, 255.0) + 0.5)


def _rounded(values: tf.Tensor) -> tf.Tensor:
    """Clips to [0, 255] and rounds to uint8 in one pass; three for clip, round and cast."""
    quantized, _, _ = tf.raw_ops.QuantizeV2(
        input=values, min_range=0.0, max_range=255.0, T=tf.quint8, mode="MIN_COMBINED"
    )
    return tf.bitcast(quantized, tf.uint8)
