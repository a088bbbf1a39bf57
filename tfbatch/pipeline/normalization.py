"""From uint8 pixels to what a model gets: (pixel / 255 - mean) / standard_deviation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.dataset_info.recipe import Normalization, Recipe
from tfbatch.errors import DataError


def make_normalize(
    recipe: Recipe, measured: Normalization | None = None
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns uint8 [batch, h, w, c] -> float32 [batch, h, w, c], a whole batch at a time.

    Args:
        recipe: The data set.
        measured: What the records' manifest holds; used where the recipe gives no normalization.

    Raises:
        DataError: Neither gives one.
    """
    scale, shift = _constants(recipe, measured)
    if len(set(scale)) == len(set(shift)) == 1:
        return _alike(float(scale[0]), float(shift[0]))
    return _by_channel(scale, shift, recipe.features.image.shape)


def _constants(
    recipe: Recipe, measured: Normalization | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    normalization = recipe.normalization or measured
    if normalization is None:
        raise DataError(
            f"The records of {recipe.name} contain no measured normalization, and its recipe has "
            "none. Prepare the data again, or add `normalization` to the recipe."
        )
    deviation = np.asarray(normalization.standard_deviation)
    return 1.0 / (255.0 * deviation), np.asarray(normalization.mean) / deviation


def make_normalize_floats(
    recipe: Recipe, measured: Normalization | None = None
) -> Callable[[tf.Tensor], tf.Tensor]:
    """The same of float32 images of whole numbers, by operations that every device has.

    Equal to the last bit where channels differ, else within a few units in the last place.
    """
    scale, shift = _constants(recipe, measured)
    return _by_channel(scale, shift, recipe.features.image.shape)


def _alike(scale: float, shift: float) -> Callable[[tf.Tensor], tf.Tensor]:
    """All channels alike: one pass over the batch, three for a cast and a multiply-add."""

    def normalize(images: tf.Tensor) -> tf.Tensor:
        return tf.quantization.dequantize(
            tf.bitcast(images, tf.quint8), -shift, 255.0 * scale - shift, mode="MIN_COMBINED"
        )

    return normalize


def _by_channel(
    scale: np.ndarray, shift: np.ndarray, shape: tuple[int, int, int]
) -> Callable[[tf.Tensor], tf.Tensor]:
    # Whole rows: broadcasting over so few channels is four times slower on a CPU.
    height, width, channels = shape
    row_scale = np.tile(scale, height * width).astype(np.float32)
    row_shift = np.tile(shift, height * width).astype(np.float32)

    def normalize(images: tf.Tensor) -> tf.Tensor:
        rows = tf.cast(tf.reshape(images, [-1, height * width * channels]), tf.float32)
        return tf.reshape(rows * row_scale - row_shift, [-1, height, width, channels])

    return normalize
