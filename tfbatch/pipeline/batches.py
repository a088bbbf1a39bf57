"""From a batch of uint8 images to what a model gets: augmentation, then normalisation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfbatch.augmentations import AUGMENTATIONS
from tfbatch.recipes import Recipe
from tfbatch.schema import validate

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

PREFETCH = 8
PARALLEL_CALLS = 2


def fixed_options() -> tf.data.Options:
    """Options with autotuning off.

    With autotuning, tearing an iterator down waits for its thread until about 5 s after it was
    made, at the end of every `fit` (seen with TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    return options


def make_normalize(recipe: Recipe) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns uint8 [batch, h, w, c] -> float32, (pixel / 255 - mean) / standard_deviation."""
    height, width, channels = recipe.features.image.shape
    deviation = np.asarray(recipe.normalization.standard_deviation, np.float32)
    # One row at a time: broadcasting over so few channels is four times slower on a CPU.
    scale = np.tile((1.0 / (255.0 * deviation)).astype(np.float32), width)
    shift = np.tile(np.asarray(recipe.normalization.mean, np.float32) / deviation, width)

    def normalize(images: tf.Tensor) -> tf.Tensor:
        rows = tf.cast(tf.reshape(images, [-1, width * channels]), tf.float32)
        return tf.reshape(rows * scale - shift, [-1, height, width, channels])

    return normalize


def make_augment(recipe: Recipe, *, seed: int) -> Augment:
    """Returns `(images, position) -> images` with the recipe's augmentations.

    `position` is the number of examples that the stream gave before this batch, int64 scalar.
    Each augmentation draws four 32-bit words for each example from a counter-based generator
    (Philox, Salmon et al. 2011) whose counter is the example's position, so the same example is
    changed in the same way whatever the batch size.

    Raises:
        InputError: An unknown augmentation, or parameters that it does not take.
    """
    chain = []
    for index, named in enumerate(recipe.augmentation):
        module = AUGMENTATIONS.load(named.name)
        where = f"data set {recipe.name}: augmentation {named.name}"
        parameters = validate(module.Parameters, named.arguments, where=where)
        chain.append((index, module.augment, parameters))

    def augment(images: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        shape = images.shape
        for index, apply, parameters in chain:
            draws = draw_words(tf.shape(images)[0], position, seed=seed, stream=index)
            images = tf.ensure_shape(apply(images, draws, parameters), shape)
        return images

    return augment


def draw_words(count: tf.Tensor, position: tf.Tensor, *, seed: int, stream: int) -> tf.Tensor:
    """Four uniform uint32 words for each of `count` examples from `position` on: [count, 4].

    One Philox block gives four words, so drawing n and then m examples gives the same words as
    drawing n + m.
    """
    key = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)
    counter = tf.stack([tf.cast(position, tf.uint64), tf.zeros([], tf.uint64)])
    words: tf.Tensor = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.stack([count, 4]), key=key, counter=counter, alg=1, dtype=tf.uint32
    )
    return words


def prefetched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The end of every pipeline: a fixed prefetch and fixed options."""
    return dataset.prefetch(PREFETCH).with_options(fixed_options())
