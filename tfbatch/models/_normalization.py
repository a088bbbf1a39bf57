"""The normalization layers a model of this folder can be built with.

Batch normalization couples the examples of a batch and is the one that acts differently at
different batch sizes; group and layer normalization look at one example at a time.

Its moving average uses momentum 0.9: Keras's default 0.99 still holds 60 % of the initial values
after 50 updates, which makes a large batch look falsely bad at inference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras import layers

from tfbatch.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import keras

NORMALIZATIONS = ("none", "batch", "group", "layer")
_GROUPS = 32
_CHANNELS_PER_GROUP = 8


def check_normalization(name: str) -> None:
    """Refuses an unknown normalization.

    Raises:
        InputError: The message lists the names and the closest one.
    """
    if name not in NORMALIZATIONS:
        raise InputError(
            f"Unknown normalization `{name}`.{did_you_mean(name, NORMALIZATIONS)} "
            f"Available: {', '.join(NORMALIZATIONS)}."
        )


def normalized(x: keras.KerasTensor, normalization: str) -> keras.KerasTensor:
    """Normalizes a layer's output before its activation; `"none"` returns it as it is.

    - `"batch"`: each channel over the batch and the image (Ioffe & Szegedy 2015, arXiv 1502.03167).
    - `"group"`: each example over the image and a group of channels (Wu & He 2018, 1803.08494).
    - `"layer"`: each example over the image and all channels (Ba et al. 2016, 1607.06450, as Wu &
      He draw it): group normalization with one group. Keras's `LayerNormalization` would look at
      each pixel alone, or have a gain for each pixel.

    All have a gain and an offset for each channel, so the layer before them needs no bias.

    Args:
        x: [batch, height, width, channels] or [batch, channels].
        normalization: One of `NORMALIZATIONS`.
    """
    if normalization == "batch":
        return layers.BatchNormalization(momentum=0.9)(x)
    if normalization == "group":
        return layers.GroupNormalization(groups=group_count(x.shape[-1]))(x)
    if normalization == "layer":
        return layers.GroupNormalization(groups=1)(x)
    return x


def group_count(channels: int) -> int:
    """Wu & He's 32 groups, or fewer so that a group has at least 8 channels.

    They made it for widths of 64 to 2048. In a narrow network 32 groups would come near to one
    channel in a group, instance normalization, which is clearly worse in their table 3.

    ```python
    most = max(min(32, channels // 8), 1)
    return max(divisor for divisor in range(1, most + 1) if channels % divisor == 0)
    ```
    """
    most = max(min(_GROUPS, channels // _CHANNELS_PER_GROUP), 1)
    return max(divisor for divisor in range(1, most + 1) if channels % divisor == 0)
