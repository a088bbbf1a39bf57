"""What all streams have in common: parallelism, sizes of what flows, options."""

from __future__ import annotations

import os
from collections.abc import Callable

import tensorflow as tf

Finish = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]
"""(images, labels, position) of a batch to what the stream yields. It runs where the batch is
read or gathered: each further stage of a pipeline adds milliseconds to its start.
"""

_CHUNK_BYTES = 3 << 20
_CHUNK_EXAMPLES = 4096
_PREFETCH_BYTES = 32 << 20
_PREFETCH_BATCHES = (2, 64)


def fixed_options() -> tf.data.Options:
    """Options with autotuning and graph rewriting off.

    With autotuning, tearing an iterator down waits for its thread until about 5 s after it was
    made, at the end of every `fit` (seen with TensorFlow 2.21). The default rewriting copies every
    tensor that a stream captures, resident data included, and takes longer than the first batch.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    options.experimental_optimization.apply_default_optimizations = False
    return options


def unfinished(images: tf.Tensor, labels: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The `Finish` that changes nothing."""
    return images, labels, position


def parallel_calls() -> int:
    """One call for each core that this process may use, or fewer if TensorFlow is told fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, tf.config.threading.get_inter_op_parallelism_threads() or 16, 16)


def batches_in_chunk(batch_size: int, *, pixels: int) -> int:
    """How many batches are made at once, to be cut apart without a copy.

    An element of a pipeline costs about 0.1 ms of a core however small it is. A chunk has whole
    batches and about 3 MB as float32, which a core's cache still holds in part.

    Args:
        batch_size: Examples in a batch.
        pixels: Values in an image: height x width x channels.
    """
    examples = min(_CHUNK_BYTES // (4 * pixels), _CHUNK_EXAMPLES)
    return max(1, examples // batch_size)


def prefetched(dataset: tf.data.Dataset, *, batch_bytes: int) -> tf.data.Dataset:
    """The end of every pipeline: a fixed prefetch, of about 32 MB, and fixed options."""
    fewest, most = _PREFETCH_BATCHES
    depth = min(max(_PREFETCH_BYTES // batch_bytes, fewest), most)
    return dataset.prefetch(depth).with_options(fixed_options())
