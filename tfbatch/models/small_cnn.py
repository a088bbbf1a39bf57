"""A small convolutional network without normalization, for measuring in minutes on a CPU.

Without batch normalization its loss is a plain mean over examples, so that the batch size acts
through the gradient alone.
"""

from __future__ import annotations

import keras
from keras import layers

from tfbatch.models._blocks import convolution
from tfbatch.models._normalization import check_normalization

_WIDTHS = (16, 32, 32)


def build(
    input_shape: tuple[int, int, int], num_classes: int, *, normalization: str = "none"
) -> keras.Model:
    """Convolution and pooling until a side has 2 pixels or fewer, at most three times.

    Args:
        input_shape: (height, width, channels).
        num_classes: Number of logits.
        normalization: "none", "batch", "group" or "layer", after each convolution.

    Raises:
        InputError: An unknown normalization.
    """
    check_normalization(normalization)
    inputs = keras.Input(input_shape)
    hidden = inputs
    for width in _WIDTHS:
        hidden = convolution(
            hidden, width, 3, normalization=normalization, kernel_initializer="glorot_uniform"
        )
        if min(hidden.shape[1:3]) <= 2:
            break
        hidden = layers.MaxPooling2D()(hidden)
    hidden = layers.Flatten()(hidden)
    hidden = layers.Dense(64, activation="relu")(hidden)
    return keras.Model(inputs, layers.Dense(num_classes)(hidden), name="small_cnn")
