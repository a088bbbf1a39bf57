"""GoogLeNet, Inception version 1, of Szegedy et al. 2014 (arXiv 1409.4842, table 1).

As in the paper: 22 layers with weights on the longest path, nine inception modules with the widths
of table 1, average pooling in place of hidden dense layers, dropout of 0.4. At 224 x 224 x 3 with
1000 classes it has 6 998 552 parameters. It differs in this:

- No auxiliary classifiers: a model here gives one output, the logits. They were not there to be
  used at inference, and their authors later found them not to speed up the early training
  (Szegedy et al. 2015, arXiv 1512.00567, section 4).
- No local response normalization: Simonyan & Zisserman 2014 (arXiv 1409.1556, section 4.1) found
  it to cost time and to bring no accuracy. `normalization` puts another in its place, after every
  convolution, as in Ioffe & Szegedy 2015.
- He's initialization; the paper names none.
- Below 128 pixels widths and strides are as tfbatch/models/_image_size.py says: at 32 x 32 the
  first convolution is 3 x 3 with stride 1 and no pooling, in place of 7 x 7 with stride 2, and the
  modules see 16, 8 and 4 pixels.

Dropout is the paper's, and is felt in short trainings: it slows them and adds gradient noise, which
is drawn for each example and so averages out with the batch size. `dropout=0` trains without it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import layers

from tfbatch.models._blocks import check_dropout, convolution, dropped, logits
from tfbatch.models._image_size import can_halve, stem_halvings, width_divisor
from tfbatch.models._normalization import check_normalization


class _Widths(NamedTuple):
    """One row of table 1: the widths of an inception module's six convolutions."""

    one: int
    three_reduced: int
    three: int
    five_reduced: int
    five: int
    pooled: int


_STAGES = (
    (
        _Widths(64, 96, 128, 16, 32, 32),
        _Widths(128, 128, 192, 32, 96, 64),
    ),
    (
        _Widths(192, 96, 208, 16, 48, 64),
        _Widths(160, 112, 224, 24, 64, 64),
        _Widths(128, 128, 256, 24, 64, 64),
        _Widths(112, 144, 288, 32, 64, 64),
        _Widths(256, 160, 320, 32, 128, 128),
    ),
    (
        _Widths(256, 160, 320, 32, 128, 128),
        _Widths(384, 192, 384, 48, 128, 128),
    ),
)


def build(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    normalization: str = "none",
    dropout: float = 0.4,
) -> keras.Model:
    """Three convolutions, nine inception modules, average pooling, dropout and the logits.

    Args:
        input_shape: (height, width, channels).
        num_classes: Number of logits.
        normalization: "none", "batch", "group" or "layer", after each convolution.
        dropout: Fraction of the pooled features to drop in training.

    Raises:
        InputError: An unknown normalization, or a dropout outside [0, 1).
    """
    check_normalization(normalization)
    check_dropout(dropout)
    divisor = width_divisor(input_shape)
    inputs = keras.Input(input_shape)
    hidden = _stem(inputs, divisor, stem_halvings(input_shape), normalization)
    for modules in _STAGES:
        hidden = _halved(hidden)
        for widths in modules:
            scaled = _Widths(*(width // divisor for width in widths))
            hidden = _inception(hidden, scaled, normalization)
    hidden = dropped(layers.GlobalAveragePooling2D()(hidden), dropout)
    return keras.Model(inputs, logits(hidden, num_classes), name="googlenet")


def _stem(x: Any, divisor: int, halvings: int, normalization: str) -> Any:
    size, stride = (7, 2) if halvings else (3, 1)
    x = convolution(x, 64 // divisor, size, stride=stride, normalization=normalization)
    if halvings == 2:
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = convolution(x, 64 // divisor, 1, normalization=normalization)
    return convolution(x, 192 // divisor, 3, normalization=normalization)


def _halved(x: Any) -> Any:
    return layers.MaxPooling2D(3, strides=2, padding="same")(x) if can_halve(x) else x


def _inception(x: Any, widths: _Widths, normalization: str) -> Any:
    """Figure 2(b) of the paper: four branches over the same image, side by side in channels."""

    def branch(x: Any, width: int, size: int = 1) -> Any:
        return convolution(x, width, size, normalization=normalization)

    return layers.Concatenate()(
        [
            branch(x, widths.one),
            branch(branch(x, widths.three_reduced), widths.three, 3),
            branch(branch(x, widths.five_reduced), widths.five, 5),
            branch(layers.MaxPooling2D(3, strides=1, padding="same")(x), widths.pooled),
        ]
    )
