"""The CIFAR residual network of He et al. 2016 (arXiv 1512.03385, section 4.2), ResNet-20.

Batch normalisation's moving average uses momentum 0.9: Keras's default 0.99 still holds 60 % of
the initial values after 50 updates, which makes a large batch look falsely bad at inference.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

_WIDTHS = (16, 32, 64)
_BLOCKS = 3


def build(input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """Three stages of three two-convolution blocks; a stage halves images larger than 4 x 4.

    Args:
        input_shape: (height, width, channels).
        num_classes: Number of logits.
    """
    inputs = keras.Input(input_shape)
    hidden = _normalised(_convolution(inputs, _WIDTHS[0], stride=1))
    for stage, width in enumerate(_WIDTHS):
        for block in range(_BLOCKS):
            halve = stage > 0 and block == 0 and min(hidden.shape[1:3]) > 4
            hidden = _block(hidden, width, stride=2 if halve else 1)
    hidden = layers.GlobalAveragePooling2D()(hidden)
    return keras.Model(inputs, layers.Dense(num_classes)(hidden), name="resnet")


def _convolution(x: Any, width: int, *, stride: int, size: int = 3) -> Any:
    return layers.Conv2D(
        width,
        size,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
    )(x)


def _normalised(x: Any, *, activation: bool = True) -> Any:
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x) if activation else x


def _block(x: Any, width: int, *, stride: int) -> Any:
    hidden = _normalised(_convolution(x, width, stride=stride))
    hidden = _normalised(_convolution(hidden, width, stride=1), activation=False)
    if x.shape[-1] != width or stride > 1:  # the paper's option B
        x = _normalised(_convolution(x, width, stride=stride, size=1), activation=False)
    return layers.ReLU()(layers.Add()([hidden, x]))
