"""LeNet-300-100, a multilayer perceptron: two hidden layers of 300 and 100 units.

Of LeCun et al. 1998 ("Gradient-based learning applied to document recognition", section III.C). It
differs in its ReLU in place of a scaled tanh, in He's initialization, and in giving logits.
"""

from __future__ import annotations

import keras
from keras import layers

from tfbatch.models._blocks import fully_connected, logits
from tfbatch.models._normalization import check_normalization

_WIDTHS = (300, 100)


def build(
    input_shape: tuple[int, int, int], num_classes: int, *, normalization: str = "none"
) -> keras.Model:
    """Flattens the image; two hidden layers of the same widths at any image size.

    Args:
        input_shape: (height, width, channels).
        num_classes: Number of logits.
        normalization: "none", "batch", "group" or "layer", before each ReLU.

    Raises:
        InputError: An unknown normalization.
    """
    check_normalization(normalization)
    inputs = keras.Input(input_shape)
    hidden = layers.Flatten()(inputs)
    for width in _WIDTHS:
        hidden = fully_connected(hidden, width, normalization=normalization)
    return keras.Model(inputs, logits(hidden, num_classes), name="mlp")
