"""VGG-16, configuration D of Simonyan & Zisserman 2014 (arXiv 1409.1556, table 1).

As in the paper: 13 convolutions of 3 x 3 in five blocks, each followed by 2 x 2 pooling, two hidden
dense layers with dropout of 0.5, no normalization. At 224 x 224 x 3 with 1000 classes it has the
paper's 138 million parameters. It differs in this:

- He's initialization. The paper started the deep network from a trained shallow one, since a
  standard deviation of 0.01 does not train it from the beginning; the last layer keeps it.
- Below 128 pixels the widths are a quarter, 16 to 128 and 1024 in the dense layers; a block does
  not pool an image of 4 x 4 or smaller. tfbatch/models/_image_size.py says why.

Dropout is the paper's, and is felt in short trainings: it slows them and adds gradient noise, which
is drawn for each example and so averages out with the batch size. `dropout=0` trains without it.
"""

from __future__ import annotations

import keras
from keras import layers

from tfbatch.models._blocks import check_dropout, convolution, dropped, fully_connected, logits
from tfbatch.models._image_size import can_halve, width_divisor
from tfbatch.models._normalization import check_normalization

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width, convolutions
_DENSE = 4096


def build(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    normalization: str = "none",
    dropout: float = 0.5,
) -> keras.Model:
    """Thirteen convolutions, two hidden dense layers with dropout, and the logits.

    Args:
        input_shape: (height, width, channels).
        num_classes: Number of logits.
        normalization: "none", "batch", "group" or "layer", after each convolution.
        dropout: Fraction of the hidden dense units to drop in training.

    Raises:
        InputError: An unknown normalization, or a dropout outside [0, 1).
    """
    check_normalization(normalization)
    check_dropout(dropout)
    divisor = width_divisor(input_shape)
    inputs = keras.Input(input_shape)
    hidden = inputs
    for width, convolutions in _BLOCKS:
        for _ in range(convolutions):
            hidden = convolution(hidden, width // divisor, 3, normalization=normalization)
        if can_halve(hidden):
            hidden = layers.MaxPooling2D()(hidden)
    hidden = layers.Flatten()(hidden)
    for _ in range(2):
        hidden = dropped(fully_connected(hidden, _DENSE // divisor), dropout)
    return keras.Model(inputs, logits(hidden, num_classes), name="vgg")
