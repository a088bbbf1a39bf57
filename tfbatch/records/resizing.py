"""Brings an image of another size to the recipe's, without changing its aspect ratio."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf


def crop_and_resize(
    pixels: npt.NDArray[np.uint8], *, height: int, width: int
) -> npt.NDArray[np.uint8]:
    """Cuts out the largest centered part with the target's aspect ratio, and resizes it.

        def part(image_height, image_width):
            scale = max(height / image_height, width / image_width)
            return round(height / scale), round(width / scale)

    The policy of `keras.utils.image_dataset_from_directory(crop_to_aspect_ratio=True)`: the same
    as resizing the shorter side and cutting off what the longer one has too much. Bilinear, and
    antialiased, so that a large photograph becomes an average and not a sample of its pixels.

    Args:
        pixels: uint8 [image_height, image_width, channels].
        height: Height of the result, in pixels.
        width: Width of the result, in pixels.

    Returns:
        uint8 [height, width, channels].
    """
    scale = max(height / pixels.shape[0], width / pixels.shape[1])
    rows = min(pixels.shape[0], max(1, round(height / scale)))
    columns = min(pixels.shape[1], max(1, round(width / scale)))
    top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
    part = pixels[top : top + rows, left : left + columns]
    with tf.device("CPU:0"):
        resized = tf.image.resize(part, [height, width], method="bilinear", antialias=True)
    rounded: npt.NDArray[np.uint8] = np.clip(np.rint(resized.numpy()), 0, 255).astype(np.uint8)
    return rounded
