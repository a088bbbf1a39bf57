"""Mean and standard deviation of each channel, measured on records where a recipe has none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfbatch.dataset_info.recipe import Features, Normalization
from tfbatch.records.codec import decode_batch

_BATCH_BYTES = 4 << 20


def measure_normalization(records: Sequence[Path], features: Features) -> Normalization:
    """Measures the pixels of all records of some files, divided by 255.

    The sums are of integers, so the result is exact and does not depend on the order. A channel
    whose pixels are all alike gets a deviation of 1: it becomes 0, whatever it is divided by.

    Args:
        records: TFRecord files with at least one example in all.
        features: The recipe's features.

    Returns:
        One mean and one (uncorrected) standard deviation for each channel, in [0, 1].
    """
    channels = features.image.shape[2]
    values = np.arange(256, dtype=np.float64) / 255
    counts = np.zeros((channels, 256), np.int64)
    batch = max(1, min(256, _BATCH_BYTES // int(np.prod(features.image.shape))))
    stored = tf.data.TFRecordDataset([str(path) for path in records]).batch(batch)
    decoded = stored.map(lambda serialized: decode_batch(serialized, features)[0]).prefetch(1)
    for images in decoded.as_numpy_iterator():
        for channel in range(channels):
            counts[channel] += np.bincount(images[..., channel].ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    deviation = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    constant = (counts > 0).sum(axis=1) == 1
    return Normalization(
        mean=tuple(mean.tolist()),
        standard_deviation=tuple(np.where(constant, 1.0, deviation).tolist()),
    )
