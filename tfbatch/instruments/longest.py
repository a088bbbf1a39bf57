"""Inputs of variable length at their longest: what a batch may cost, not what a lucky one costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbatch.pipeline.data import Data

Longest = tuple[tuple[int, ...], ...]
"""For each part of an element, its longest shape without the batch."""
MOST_SCANNED = 20_000
"""Examples that are looked at."""
_AT_ONCE = 64


def longest_shapes(data: Data, *, heartbeat: Callable[[], None]) -> Longest | None:
    """The longest shape of each part among the training examples; None where all are alike.

    Args:
        data: The data.
        heartbeat: Called after each batch.
    """
    examples = min(data.num_examples("train"), MOST_SCANNED)
    batch_size = min(_AT_ONCE, examples)
    stream = data.training(batch_size=batch_size, seed=1, num_examples=examples)
    specs = tf.nest.flatten(stream.element_spec)
    if all(None not in spec.shape.as_list()[1:] for spec in specs):
        return None
    longest = [[0] * (len(spec.shape) - 1) for spec in specs]
    for element in stream:
        heartbeat()
        parts = tf.nest.flatten(element)
        longest = [
            [max(pair) for pair in zip(found, part.shape[1:], strict=True)]
            for found, part in zip(longest, parts, strict=True)
        ]
    return tuple(tuple(shape) for shape in longest)


def lengthened(dataset: tf.data.Dataset, longest: Longest | None) -> tf.data.Dataset:
    """Pads every batch with zeros to the longest shapes."""
    if longest is None:
        return dataset

    def lengthen(*element: Any) -> Any:
        parts = tf.nest.flatten(element)
        padded = [_padded(part, shape) for part, shape in zip(parts, longest, strict=True)]
        return tf.nest.pack_sequence_as(element, padded)

    return dataset.map(lengthen)


def _padded(part: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    if not shape:
        return part
    missing = tf.maximum(tf.constant(shape) - tf.shape(part)[1:], 0)
    after = tf.concat([[0], missing], axis=0)
    return tf.pad(part, tf.stack([tf.zeros_like(after), after], axis=1))
