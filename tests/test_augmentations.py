"""The contract of every file in tfbatch/augmentations, and slow references for each."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfbatch.augmentations import AUGMENTATIONS
from tfbatch.errors import ConfigurationError
from tfbatch.schema import validate

EACH = pytest.mark.parametrize("name", AUGMENTATIONS.names())
SHAPE = (7, 11, 3)  # not square, so that rows and columns cannot be taken for each other


def images(count=16, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (count, *shape), np.uint8)


def words(count=16, seed=0):
    return np.random.default_rng(seed).integers(0, 2**32, (count, 4), np.uint32)


def augment(name, batch, draws, **parameters):
    module = AUGMENTATIONS.load(name)
    result = module.augment(tf.constant(batch), tf.constant(draws), module.Parameters(**parameters))
    assert result.dtype == tf.uint8
    assert result.shape == batch.shape
    return result.numpy()


def slow_horizontal_flip(image, draws):
    height, width, _ = image.shape
    out = image.copy()
    if draws[0] // 2**31 == 1:
        for row in range(height):
            for column in range(width):
                out[row, column] = image[row, width - 1 - column]
    return out


def slow_random_crop(image, draws, padding=4):
    height, width, _ = image.shape
    down, right = (int(word) % (2 * padding + 1) - padding for word in draws[:2])
    out = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                out[row, column] = image[row + down, column + right]
    return out


def slow_cutout(image, draws, size=8):
    height, width, _ = image.shape
    top, left = int(draws[0]) % height - size // 2, int(draws[1]) % width - size // 2
    out = image.copy()
    for row in range(top, top + size):
        for column in range(left, left + size):
            if 0 <= row < height and 0 <= column < width:
                out[row, column] = 0
    return out


CASES = [
    ("horizontal_flip", slow_horizontal_flip, {}),
    ("random_crop", slow_random_crop, {}),
    ("random_crop", slow_random_crop, {"padding": 1}),
    ("random_crop", slow_random_crop, {"padding": 20}),
    ("cutout", slow_cutout, {}),
    ("cutout", slow_cutout, {"size": 1}),
    ("cutout", slow_cutout, {"size": 3}),
    ("cutout", slow_cutout, {"size": 50}),
]


def test_every_augmentation_has_a_slow_reference_here():
    assert {name for name, _, _ in CASES} == set(AUGMENTATIONS.names())


@pytest.mark.parametrize(
    ("name", "slow", "parameters"), CASES, ids=[f"{n}-{p}" for n, _, p in CASES]
)
def test_an_augmentation_equals_its_slow_reference(name, slow, parameters):
    batch, draws = images(64), words(64)

    got = augment(name, batch, draws, **parameters)

    want = np.stack([slow(i, d, **parameters) for i, d in zip(batch, draws, strict=True)])
    np.testing.assert_array_equal(got, want)


@EACH
@pytest.mark.parametrize("shape", [SHAPE, (8, 8, 1), (1, 1, 4)], ids=str)
def test_shape_and_type_are_kept(name, shape):
    augment(name, images(5, shape), words(5))


@EACH
def test_the_same_draws_give_the_same_images_and_others_do_not(name):
    batch = images()

    first = augment(name, batch, words(seed=1))

    np.testing.assert_array_equal(first, augment(name, batch, words(seed=1)))
    assert (first != augment(name, batch, words(seed=2))).any()
    assert (first != batch).any()


@EACH
def test_two_small_batches_are_changed_like_one_large_one(name):
    batch, draws = images(), words()

    halves = [augment(name, batch[part], draws[part]) for part in (slice(8), slice(8, 16))]

    np.testing.assert_array_equal(np.concatenate(halves), augment(name, batch, draws))


@EACH
def test_an_image_is_changed_by_its_own_draws_alone(name):
    batch, draws = images(), words()
    order = np.random.default_rng(3).permutation(16)

    np.testing.assert_array_equal(
        augment(name, batch[order], draws[order]), augment(name, batch, draws)[order]
    )


@EACH
def test_the_images_given_are_not_changed(name):
    batch = images()
    before = batch.copy()

    augment(name, batch, words())

    np.testing.assert_array_equal(batch, before)


@EACH
def test_it_works_in_a_graph_with_an_unknown_batch_size(name):
    module = AUGMENTATIONS.load(name)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *SHAPE], tf.uint8),
            tf.TensorSpec([None, 4], tf.uint32),
        ]
    )
    def in_graph(batch, draws):
        return module.augment(batch, draws, module.Parameters())

    for count in (1, 3, 16):
        np.testing.assert_array_equal(
            in_graph(images(count), words(count)), augment(name, images(count), words(count))
        )


@EACH
def test_an_unknown_parameter_is_refused(name):
    with pytest.raises(ConfigurationError, match=r"recipe: sise: is not a known key\."):
        validate(AUGMENTATIONS.load(name).Parameters, {"sise": 4}, where="recipe")


@pytest.mark.parametrize(
    ("name", "parameters"), [("random_crop", {"padding": 0}), ("cutout", {"size": 0})]
)
def test_a_parameter_that_would_do_nothing_is_refused(name, parameters):
    with pytest.raises(ConfigurationError, match="greater than or equal to 1"):
        validate(AUGMENTATIONS.load(name).Parameters, parameters, where="recipe")


def test_half_of_the_images_are_flipped():
    """4,000 draws: one half within five standard errors."""
    batch = np.tile(np.array([0, 255], np.uint8)[None, None, :, None], (4000, 1, 1, 1))

    flipped = augment("horizontal_flip", batch, words(4000))[:, 0, 0, 0] == 255

    assert abs(flipped.mean() - 0.5) < 5 * 0.5 / 4000**0.5


def test_every_place_of_a_crop_is_as_frequent():
    batch = np.zeros((4500, 5, 5, 1), np.uint8)
    batch[:, 2, 2] = 1

    cropped = augment("random_crop", batch, words(4500), padding=1)[..., 0]

    places = cropped.sum(0, dtype=np.int64)[1:4, 1:4]
    assert places.sum() == 4500
    assert np.abs(places - 500).max() < 5 * (4500 * 1 / 9 * 8 / 9) ** 0.5
