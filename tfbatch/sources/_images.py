"""Sizes of encoded images, and a random order, for the sources that need them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

from tfbatch.errors import DataError, InputError, did_you_mean

SAMPLE = 256
"""Images that are looked at where a source does not say what size they have."""
_ORDER_SEED = 20150503


def random_order(split: str, count: int) -> npt.NDArray[np.int64]:
    """A fixed random order: files and arrays are often sorted by their class."""
    words = [_ORDER_SEED, *split.encode()]
    return np.random.default_rng(words).permutation(count)


def common_size(
    images: Iterable[tuple[str, bytes]],
) -> tuple[tuple[int, int] | None, Literal[1, 3]]:
    """(height, width) of encoded images, or None where they differ; 1 channel if all are grey.

    Args:
        images: Name and encoded bytes of each.

    Raises:
        DataError: One cannot be decoded; names it.
    """
    import tensorflow as tf

    sizes, grey = set(), True
    for name, encoded in images:
        try:
            shape = tf.io.decode_image(encoded, expand_animations=False).shape
        except tf.errors.InvalidArgumentError as error:
            raise DataError(
                f"{name} cannot be decoded as an image: {error.message}. Replace it, or take it "
                "out of the data."
            ) from error
        sizes.add((int(shape[0]), int(shape[1])))
        grey = grey and shape[2] in (1, 2)  # two: grey with transparency
    return sizes.pop() if len(sizes) == 1 else None, 1 if grey else 3


def check_split(source: str, split: str, splits: Iterable[str]) -> None:
    """Raises InputError, with the closest name, for a split that a source has not."""
    names = list(splits)
    if split not in names:
        raise InputError(
            f"{source} has no split `{split}`.{did_you_mean(split, names)} "
            f"Available: {', '.join(names)}."
        )
