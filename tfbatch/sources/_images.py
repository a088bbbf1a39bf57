"""Sizes of encoded images, and a random order, for the sources that need them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

from tfbatch.encoded_images import UnreadableImageError, decodable, without_frame
from tfbatch.errors import DataError, InputError, did_you_mean
from tfbatch.recipes import PixelRange

SAMPLE = 256
"""Images that are looked at where a source does not say what size they have."""
_ORDER_SEED = 20150503


def random_order(split: str, count: int) -> npt.NDArray[np.int64]:
    """A fixed random order: files and arrays are often sorted by their class."""
    words = [_ORDER_SEED, *split.encode()]
    return np.random.default_rng(words).permutation(count)


def common_size(
    images: Iterable[tuple[str, bytes]], *, pixel_range: PixelRange | None = None
) -> tuple[tuple[int, int] | None, Literal[1, 3]]:
    """(height, width) of encoded images, or None where they differ; 1 channel if all are grey.

    Damaged images are passed over: all of them are named when the records are written.

    Args:
        images: Name and encoded bytes of each.
        pixel_range: See `tfbatch.encoded_images.decodable`.

    Raises:
        DataError: None of them can be decoded.
        InputError: One of more than 8 bits, without a `pixel_range`.
    """
    import tensorflow as tf

    sizes, grey, unreadable = set(), True, []
    for name, encoded in images:
        try:
            plain = decodable(name, encoded, pixel_range)
            shape = tf.io.decode_image(plain, expand_animations=False).shape
        except UnreadableImageError as error:
            unreadable.append(error)
            continue
        except tf.errors.InvalidArgumentError as error:
            unreadable.append(UnreadableImageError(name, without_frame(error)))
            continue
        sizes.add((int(shape[0]), int(shape[1])))
        grey = grey and shape[2] in (1, 2)  # two: grey with transparency
    if unreadable and not sizes:
        raise DataError(
            f"None of {len(unreadable)} images can be decoded. The first: {unreadable[0]}"
        )
    return sizes.pop() if len(sizes) == 1 else None, 1 if grey else 3


def check_split(source: str, split: str, splits: Iterable[str]) -> None:
    """Raises InputError, with the closest name, for a split that a source has not."""
    names = list(splits)
    if split not in names:
        raise InputError(
            f"{source} has no split `{split}`.{did_you_mean(split, names)} "
            f"Available: {', '.join(names)}."
        )
