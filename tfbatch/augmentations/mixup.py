"""Mixes each example and its label with another (mixup, Zhang et al. 2017, arXiv 1710.09412).

In a recipe:

    augmentation:
      - {name: horizontal_flip}
      - {name: mixup, alpha: 0.2}

The rule:

    def mixup(image, label, partner_image, partner_label):
        weight = beta(alpha, alpha)
        mix = lambda one, other: weight * one + (1 - weight) * other
        return mix(image, partner_image), mix(label, partner_label)

The paper draws one weight for each batch and the partner from the same batch; then batches of
another size would mean other mixtures. Here each example has a weight and a partner of its own.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from pydantic import Field
from scipy.special import betaincinv

from tfbatch.augmentations._draws import look_up, quantiles
from tfbatch.schema import Strict


class Parameters(Strict):
    """Parameters of a recipe.

    Attributes:
        alpha: Both parameters of the weight's Beta distribution. The smaller, the nearer to 0 or 1
            are the weights; at 1 they are uniform. The paper has 1 for CIFAR-10, 0.1 to 0.4 for
            ImageNet.
    """

    alpha: float = Field(default=0.2, ge=0.01, le=100)


def mix(
    images: tf.Tensor,
    labels: tf.Tensor,
    partner_images: tf.Tensor,
    partner_labels: tf.Tensor,
    draws: tf.Tensor,
    parameters: Parameters,
) -> tuple[tf.Tensor, tf.Tensor]:
    """See tfbatch.augmentations; the first word chooses the weight."""
    weight = look_up(_weights(parameters.alpha), draws[:, 0])[:, None]
    # As rows: one number for a whole row is broadcast fast.
    size = math.prod(images.shape[1:])
    rows, partner_rows = (tf.reshape(x, [-1, size]) for x in (images, partner_images))
    mixed = weight * rows + (1 - weight) * partner_rows
    mixed_labels = weight * labels + (1 - weight) * partner_labels
    return tf.reshape(mixed, tf.shape(images)), mixed_labels


def _weights(alpha: float) -> npt.NDArray[np.float32]:
    """Quantiles of Beta(alpha, alpha), symmetric to the last bit."""
    lower, _ = np.split(betaincinv(alpha, alpha, quantiles()), 2)
    return np.concatenate([lower, 1 - lower[::-1]]).astype(np.float32)
