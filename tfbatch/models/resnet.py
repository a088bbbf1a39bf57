"""The CIFAR residual network of He et al. 2016 (arXiv 1512.03385, section 4.2), ResNet-20.

As in the paper: 20 layers with weights in three stages of 16, 32 and 64 channels, batch
normalization after every convolution (tfbatch/models/_normalization.py says why its momentum is
0.9). It differs in this:

- Shortcuts that change the shape are projections, the paper's option B.
- Larger images than CIFAR's are shrunk first, as by the paper's network for ImageNet: from 64
  pixels the first convolution is 7 x 7 with stride 2, and from 128 pooling halves once more. The
  widths stay.
- Without normalization nothing holds the sum of the branches in bounds: nine branches that double
  the variance would multiply it by 512. The last convolution of a branch then begins with a ninth
  of He's variance, and a projection with its input's, in the manner of Zhang et al. 2019
  (arXiv 1901.09321).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import initializers, layers

from tfbatch.models._image_size import can_halve, stem_halvings
from tfbatch.models._normalization import check_normalization, normalized

_WIDTHS = (16, 32, 64)
_BLOCKS = 3
_BRANCHES = len(_WIDTHS) * _BLOCKS


def build(
    input_shape: tuple[int, int, int], num_classes: int, *, normalization: str = "batch"
) -> keras.Model:
    """Three stages of three two-convolution blocks; a stage halves images larger than 4 x 4.

    Args:
        input_shape: (height, width, channels).
        num_classes: Number of logits.
        normalization: "none", "batch", "group" or "layer", after each convolution.

    Raises:
        InputError: An unknown normalization.
    """
    check_normalization(normalization)
    inputs = keras.Input(input_shape)
    hidden = _stem(inputs, stem_halvings(input_shape), normalization)
    for stage, width in enumerate(_WIDTHS):
        for block in range(_BLOCKS):
            halve = stage > 0 and block == 0 and can_halve(hidden)
            hidden = _block(hidden, width, 2 if halve else 1, normalization)
    hidden = layers.GlobalAveragePooling2D()(hidden)
    return keras.Model(inputs, layers.Dense(num_classes)(hidden), name="resnet")


def _stem(x: Any, halvings: int, normalization: str) -> Any:
    size, stride = (7, 2) if halvings else (3, 1)
    x = _convolution(x, _WIDTHS[0], normalization, stride=stride, size=size)
    x = layers.ReLU()(x)
    return layers.MaxPooling2D(3, strides=2, padding="same")(x) if halvings == 2 else x


def _convolution(
    x: Any,
    width: int,
    normalization: str,
    *,
    stride: int = 1,
    size: int = 3,
    unnormalized_scale: float = 2.0,
) -> Any:
    """A convolution and its normalization; without one it has a bias and a variance of its own."""
    plain = normalization == "none"
    scale = unnormalized_scale if plain else 2.0
    x = layers.Conv2D(
        width,
        size,
        strides=stride,
        padding="same",
        use_bias=plain,
        kernel_initializer=initializers.VarianceScaling(scale) if scale != 2.0 else "he_normal",
    )(x)
    return normalized(x, normalization)


def _block(x: Any, width: int, stride: int, normalization: str) -> Any:
    hidden = layers.ReLU()(_convolution(x, width, normalization, stride=stride))
    hidden = _convolution(hidden, width, normalization, unnormalized_scale=2.0 / _BRANCHES)
    if x.shape[-1] != width or stride > 1:  # the paper's option B
        x = _convolution(x, width, normalization, stride=stride, size=1, unnormalized_scale=1.0)
    return layers.ReLU()(layers.Add()([hidden, x]))
