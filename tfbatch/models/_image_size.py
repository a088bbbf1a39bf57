"""How a network that was made for images of 224 x 224 pixels is fitted to other sizes.

One rule for all of them. From 128 pixels on, a network has the paper's widths and the paper's
strides. Below, every width is a quarter of the paper's (a sixteenth of the arithmetic), so that a
step of 32 CIFAR images takes a fraction of a second on two CPU cores; and what a network does
first to shrink a large image, two halvings, is left out: the second below 128 pixels, both below
64. Later halvings are left out once the image is 4 x 4 or smaller, since a convolution sees
little but its own padding there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

_LARGE, _MIDDLE = 128, 64  # pixels of the shorter side


def width_divisor(input_shape: Sequence[int]) -> int:
    """What the paper's widths are divided by: 1 from 128 pixels on, 4 for smaller images."""
    return 1 if min(input_shape[:2]) >= _LARGE else 4


def stem_halvings(input_shape: Sequence[int]) -> int:
    """How often the first layers halve the image: 2 from 128 pixels, 1 from 64, else 0."""
    shorter = min(input_shape[:2])
    return 2 if shorter >= _LARGE else int(shorter >= _MIDDLE)


def can_halve(x: keras.KerasTensor) -> bool:
    """Whether [batch, height, width, channels] is larger than 4 x 4."""
    return bool(min(x.shape[1:3]) > 4)
