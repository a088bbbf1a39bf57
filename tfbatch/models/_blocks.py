"""The blocks that several networks here are made of: linear part, normalization, ReLU, dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras import initializers, layers

from tfbatch.errors import InputError
from tfbatch.models._normalization import normalized

if TYPE_CHECKING:
    import keras


def convolution(
    x: keras.KerasTensor,
    width: int,
    size: int,
    *,
    normalization: str,
    stride: int = 1,
    kernel_initializer: str = "he_normal",
) -> keras.KerasTensor:
    """Convolution, normalization and ReLU; the convolution has a bias if nothing is normalized."""
    plain = normalization == "none"
    x = layers.Conv2D(
        width,
        size,
        strides=stride,
        padding="same",
        use_bias=plain,
        activation="relu" if plain else None,
        kernel_initializer=kernel_initializer,
    )(x)
    return x if plain else layers.ReLU()(normalized(x, normalization))


def fully_connected(
    x: keras.KerasTensor,
    width: int,
    *,
    normalization: str = "none",
    kernel_initializer: str = "he_normal",
) -> keras.KerasTensor:
    """A dense layer, normalization and ReLU; it has a bias if nothing is normalized."""
    plain = normalization == "none"
    x = layers.Dense(
        width,
        use_bias=plain,
        activation="relu" if plain else None,
        kernel_initializer=kernel_initializer,
    )(x)
    return x if plain else layers.ReLU()(normalized(x, normalization))


def logits(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """The last dense layer, its weights drawn with standard deviation 0.01.

    So do Krizhevsky et al. 2012 and Simonyan & Zisserman 2014; the untrained loss is then close
    to `log(num_classes)`.
    """
    return layers.Dense(num_classes, kernel_initializer=initializers.RandomNormal(stddev=0.01))(x)


def dropped(x: keras.KerasTensor, rate: float) -> keras.KerasTensor:
    """Dropout of `rate`; none at all if it is 0."""
    return layers.Dropout(rate)(x) if rate else x


def check_dropout(rate: float) -> None:
    """Refuses a rate outside [0, 1).

    Raises:
        InputError: It is not a number in [0, 1).
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise InputError(
            "`dropout` must be at least 0 and below 1, the fraction of units to drop; 0 for no "
            f"dropout. Received: {rate!r}."
        )
