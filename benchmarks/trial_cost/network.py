"""The network of the comparison: six convolutions, no batch normalization."""

from __future__ import annotations

import keras
from keras import layers

_WIDTHS = (8, 16, 32)


def build(input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """Two convolutions and a pooling for each width, then one dense layer of logits."""
    inputs = keras.Input(input_shape)
    hidden = inputs
    for width in _WIDTHS:
        hidden = layers.Conv2D(width, 3, padding="same", activation="relu")(hidden)
        hidden = layers.Conv2D(width, 3, padding="same", activation="relu")(hidden)
        hidden = layers.MaxPooling2D()(hidden)
    return keras.Model(inputs, layers.Dense(num_classes)(layers.Flatten()(hidden)))
