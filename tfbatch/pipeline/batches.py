"""What all streams have in common: augmentation, parallelism, sizes of what flows, options."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.augmentations import AUGMENTATIONS
from tfbatch.recipes import Recipe
from tfbatch.schema import validate

Augment = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
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


def make_augment(recipe: Recipe) -> Augment:
    """Returns `(images, position, keys) -> images` with the recipe's augmentations.

    `position` is the number of examples that the stream gave before this batch, int64 scalar;
    `keys` is `augmentation_keys(recipe, seed)`. Each augmentation draws four 32-bit words for each
    example from a counter-based generator (Philox, Salmon et al. 2011) whose counter is the
    example's position, so the same example is changed in the same way whatever the batch size.

    Raises:
        InputError: An unknown augmentation, or parameters that it does not take.
    """
    chain = []
    for named in recipe.augmentation:
        module = AUGMENTATIONS.load(named.name)
        where = f"data set {recipe.name}: augmentation {named.name}"
        parameters = validate(module.Parameters, named.arguments, where=where)
        chain.append((module.augment, parameters))

    def augment(images: tf.Tensor, position: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        shape = images.shape
        for index, (apply, parameters) in enumerate(chain):
            draws = _draw_words(tf.shape(images)[0], position, keys[index, None])
            images = tf.ensure_shape(apply(images, draws, parameters), shape)
        return images

    return augment


def augmentation_keys(recipe: Recipe, seed: int) -> npt.NDArray[np.uint64]:
    """One key for each augmentation of the recipe, uint64 [augmentations]."""
    keys = [_key(seed, stream) for stream in range(len(recipe.augmentation))]
    return np.array(keys, np.uint64)


def draw_words(count: tf.Tensor, position: tf.Tensor, *, seed: int, stream: int) -> tf.Tensor:
    """Four uniform uint32 words for each of `count` examples from `position` on: [count, 4].

    One Philox block gives four words, so drawing n and then m examples gives the same words as
    drawing n + m.
    """
    return _draw_words(count, position, tf.constant([_key(seed, stream)], tf.uint64))


def _key(seed: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0])


def _draw_words(count: tf.Tensor, position: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    counter = tf.stack([tf.cast(position, tf.uint64), tf.zeros([], tf.uint64)])
    words: tf.Tensor = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.stack([count, 4]), key=key, counter=counter, alg=1, dtype=tf.uint32
    )
    return words


def prefetched(dataset: tf.data.Dataset, *, batch_bytes: int) -> tf.data.Dataset:
    """The end of every pipeline: a fixed prefetch, of about 32 MB, and fixed options."""
    fewest, most = _PREFETCH_BATCHES
    depth = min(max(_PREFETCH_BYTES // batch_bytes, fewest), most)
    return dataset.prefetch(depth).with_options(fixed_options())
