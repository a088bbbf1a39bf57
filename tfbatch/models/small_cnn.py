"""A small convolutional network without normalisation, for measuring in minutes on a CPU.

Without batch normalisation its loss is a plain mean over examples, so that the batch size acts
through the gradient alone.
"""

from __future__ import annotations

import keras
from keras import layers

_WIDTHS = (16, 32, 32)


def build(input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """Convolution and pooling until the image is 4 x 4 or smaller, at most three times.

    Args:
        input_shape: (height, width, channels).
        num_classes: Number of logits.
    """
    inputs = keras.Input(input_shape)
    hidden = inputs
    for width in _WIDTHS:
        hidden = layers.Conv2D(width, 3, padding="same", activation="relu")(hidden)
        if min(hidden.shape[1:3]) <= 2:
            break
        hidden = layers.MaxPooling2D()(hidden)
    hidden = layers.Flatten()(hidden)
    hidden = layers.Dense(64, activation="relu")(hidden)
    return keras.Model(inputs, layers.Dense(num_classes)(hidden), name="small_cnn")
