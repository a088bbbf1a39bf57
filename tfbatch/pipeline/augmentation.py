"""A recipe's augmentations as functions of a batch and of its position in the stream."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.augmentations import AUGMENTATIONS
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.errors import InputError
from tfbatch.pipeline.device_data import StaysOnHostError
from tfbatch.schema import Strict, validate

Augment = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
Examples = tuple[tf.Tensor, tf.Tensor]
"""Images and labels of a batch."""
Mix = Callable[[Examples, Examples, tf.Tensor, tf.Tensor], Examples]


def make_augment(recipe: Recipe) -> Augment:
    """Returns `(images, position, keys) -> images` with the recipe's augmentations.

    `position` is the number of examples that the stream gave before this batch, int64 scalar;
    `keys` is `augmentation_keys(recipe, seed)`. Each augmentation draws four 32-bit words for each
    example from a counter-based generator (Philox, Salmon et al. 2011) whose counter is the
    example's position, so the same example is changed in the same way whatever the batch size.

    Raises:
        InputError: An unknown augmentation, parameters that it does not take, or one that mixes
            examples and is not the last.
    """
    return _chain(recipe)


def make_augment_floats(recipe: Recipe) -> Augment:
    """The same of float32 images of whole numbers, by operations that GPUs have.

    The draws are the same, and so is what comes out.

    Raises:
        StaysOnHostError: An augmentation has no such form.
    """
    for named in recipe.augmentation:
        module = AUGMENTATIONS.load(named.name)
        if not (_mixes(module) or getattr(module, "ON_DEVICE", False)):
            raise StaysOnHostError(f"the augmentation {named.name} has no `ON_DEVICE = True`")
    return _chain(recipe)


def _chain(recipe: Recipe) -> Augment:
    chain = [(m.augment, parameters) for m, parameters in _load(recipe) if not _mixes(m)]

    def augment(images: tf.Tensor, position: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        shape = images.shape
        for index, (apply, parameters) in enumerate(chain):
            draws = draw_words(tf.shape(images)[0], position, keys[index, None])
            images = tf.ensure_shape(apply(images, draws, parameters), shape)
        return images

    return augment


def make_mix(recipe: Recipe) -> Mix | None:
    """Returns `(examples, partners, position, keys) -> examples`, or None if nothing is mixed.

    Examples and partners are float32 images and float32 labels [batch, num_classes]; see
    `make_augment` for the rest, and for what is refused.
    """
    loaded = _load(recipe)
    if not loaded or not _mixes(loaded[-1][0]):
        return None
    module, parameters = loaded[-1]

    def mix(one: Examples, other: Examples, position: tf.Tensor, keys: tf.Tensor) -> Examples:
        draws = draw_words(tf.shape(one[0])[0], position, keys[len(loaded) - 1, None])
        images, labels = module.mix(*one, *other, draws, parameters)
        return tf.ensure_shape(images, one[0].shape), tf.ensure_shape(labels, one[1].shape)

    return mix


def augmentation_keys(recipe: Recipe, seed: int) -> npt.NDArray[np.uint64]:
    """One key for each augmentation of the recipe, uint64 [augmentations]."""
    keys = [_key(seed, stream) for stream in range(len(recipe.augmentation))]
    return np.array(keys, np.uint64)


def draw_words(count: tf.Tensor, position: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Four uniform uint32 words for each of `count` examples from `position` on: [count, 4].

    One Philox block gives four words, so drawing n and then m examples gives the same words as
    drawing n + m. The `key` is uint64 [1], one of `augmentation_keys`.
    """
    counter = tf.stack([tf.cast(position, tf.uint64), tf.zeros([], tf.uint64)])
    words: tf.Tensor = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.stack([count, 4]), key=key, counter=counter, alg=1, dtype=tf.uint32
    )
    return words


def _load(recipe: Recipe) -> list[tuple[ModuleType, Strict]]:
    """The modules and parameters of the recipe's augmentations, in order."""
    loaded = []
    for number, named in enumerate(recipe.augmentation, start=1):
        module = AUGMENTATIONS.load(named.name)
        where = f"data set {recipe.name}: augmentation {named.name}"
        if _mixes(module) and number < len(recipe.augmentation):
            raise InputError(
                f"{where}: must be the last of the list, and the only one that mixes examples: it "
                "mixes what the others have changed. "
                f"Received: {', '.join(each.name for each in recipe.augmentation)}."
            )
        loaded.append((module, validate(module.Parameters, named.arguments, where=where)))
    return loaded


def _mixes(module: ModuleType) -> bool:
    """Whether it changes an example with another one, and not each image on its own."""
    return hasattr(module, "mix")


def _key(seed: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0])
