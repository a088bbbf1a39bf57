"""AlexNet: five convolutions and three dense layers.

Of Krizhevsky, Sutskever & Hinton 2012 ("ImageNet classification with deep convolutional neural
networks"). As in the paper: number, order, widths and kernels of the layers, the overlapping 3 x 3
pooling after convolutions 1, 2 and 5, and dropout of 0.5 after both hidden dense layers. At
224 x 224 x 3 with 1000 classes it has 62 378 344 parameters. It differs in this:

- Convolutions 2, 4 and 5 are not split into two halves (60 million parameters in the paper), as
  the paper did for its two GPUs: one column, like Krizhevsky's own later one (arXiv 1404.5997).
- No local response normalization: Simonyan & Zisserman 2014 (arXiv 1409.1556, section 4.1) found
  it to cost time and to bring no accuracy. `normalization` puts another in its place.
- Glorot's initialization and biases of zero. The paper's standard deviation 0.01 lets the signal
  fade in layers this narrow; the last layer keeps it. He's would let it grow, since each
  overlapping pooling takes the largest of nine.
- Below 128 pixels widths and strides as in tfbatch/models/_image_size.py says; the first kernel
  is 7 x 7 with stride 2 from 64 pixels, and 5 x 5 with stride 1 below, in place of 11 x 11 and 4.

Dropout is the paper's, and is felt in short trainings: it slows them and adds gradient noise, which
is drawn for each example and so averages out with the batch size. `dropout=0` trains without it.
"""

from __future__ import annotations

import keras
from keras import layers

from tfbatch.models._blocks import check_dropout, convolution, dropped, fully_connected, logits
from tfbatch.models._image_size import can_halve, stem_halvings, width_divisor
from tfbatch.models._normalization import check_normalization

_FIRST_KERNEL = (5, 7, 11)  # by the number of halvings its stride makes
_LATER = ((256, 5, True), (384, 3, False), (384, 3, False), (256, 3, True))  # width, size, pooled
_DENSE = 4096
_INITIALIZER = "glorot_uniform"


def build(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    normalization: str = "none",
    dropout: float = 0.5,
) -> keras.Model:
    """Five convolutions, two hidden dense layers with dropout, and the logits.

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
    divisor, halvings = width_divisor(input_shape), stem_halvings(input_shape)
    inputs = keras.Input(input_shape)
    first = (96, _FIRST_KERNEL[halvings], True)
    hidden = inputs
    for width, size, pooled in (first, *_LATER):
        stride = 2**halvings if hidden is inputs else 1
        hidden = convolution(
            hidden,
            width // divisor,
            size,
            stride=stride,
            normalization=normalization,
            kernel_initializer=_INITIALIZER,
        )
        if pooled and can_halve(hidden):
            hidden = layers.MaxPooling2D(3, strides=2)(hidden)
    hidden = layers.Flatten()(hidden)
    for _ in range(2):
        hidden = fully_connected(hidden, _DENSE // divisor, kernel_initializer=_INITIALIZER)
        hidden = dropped(hidden, dropout)
    return keras.Model(inputs, logits(hidden, num_classes), name="alexnet")
