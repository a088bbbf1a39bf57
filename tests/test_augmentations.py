"""The contract of every file in tfbatch/augmentations, and slow references for each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from augmentation_snippets import mixes, snippet
from scipy import stats

from tfbatch.augmentations import AUGMENTATIONS
from tfbatch.errors import ConfigurationError, InputError
from tfbatch.pipeline.augmentation import make_augment, make_mix
from tfbatch.schema import validate

EACH = pytest.mark.parametrize("name", AUGMENTATIONS.names())
SHAPE = (7, 11, 3)  # not square, so that rows and columns cannot be taken for each other
CLASSES = 5
MIDDLE = 2**31
"""The word that is one half."""


def images(count=16, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (count, *shape), np.uint8)


def words(count=16, seed=0):
    return np.random.default_rng(seed).integers(0, 2**32, (count, 4), np.uint32)


def pairs(batch):
    """For augmentations that mix: examples and partners, made of each image of uint8."""
    classes = tf.cast(batch[:, 0, 0, 0], tf.int32)
    label, other_label = (tf.one_hot((classes + more) % CLASSES, CLASSES) for more in (0, 1))
    one, other = (tf.cast(x, tf.float32) * (1 / 255) for x in (batch, 255 - batch))
    return one, label, other, other_label


def apply(name, batch, draws, parameters):
    """The images, and the labels if it mixes, as tensors; `pairs` are mixed."""
    module = AUGMENTATIONS.load(name)
    if mixes(name):
        return list(module.mix(*pairs(batch), draws, parameters))
    return [module.augment(batch, draws, parameters)]


def change(name, batch, draws, **parameters):
    """Does as the contract says, and checks shapes and types."""
    made = AUGMENTATIONS.load(name).Parameters(**parameters)
    changed = apply(name, tf.constant(batch), tf.constant(draws), made)
    assert changed[0].dtype == (tf.float32 if mixes(name) else tf.uint8)
    assert changed[0].shape == batch.shape
    if mixes(name):
        assert changed[1].dtype == tf.float32
        assert changed[1].shape == (len(batch), CLASSES)
    return [x.numpy() for x in changed]


def augment(name, batch, draws, **parameters):
    return change(name, batch, draws, **parameters)[0]


def assert_equal(got, want):
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)


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


def slow_colour(image, draws, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0):
    """The docstring's formula, step by step, in float64."""
    strengths = (brightness, contrast, saturation, 2 * math.pi * hue)
    turns = [s * (2 * int(w) / 2**32 - 1) for s, w in zip(strengths, draws, strict=True)]
    brightness, contrast, saturation = (1 + turn for turn in turns[:3])
    channels = image.shape[-1]
    luma = np.array([0.299, 0.587, 0.114]) if channels == 3 else np.ones(1)
    out = brightness * image.astype(np.float64)
    grey = (out @ luma).mean()
    out = grey + contrast * (out - grey)
    if channels == 3:
        grey = (out @ luma)[..., None]
        out = grey + saturation * (out - grey)
        yiq = np.array([luma, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
        y, i, q = np.moveaxis(out @ yiq.T, -1, 0)
        chroma = (i + 1j * q) * np.exp(1j * turns[3])
        out = np.stack([y, chroma.real, chroma.imag], -1) @ np.linalg.inv(yiq).T
    return np.rint(np.clip(out, 0, 255)).astype(np.uint8)


def murmur(word):
    """The finalizer of MurmurHash3."""
    word = (word ^ word >> 16) * 0x85EBCA6B % 2**32
    word = (word ^ word >> 13) * 0xC2B2AE35 % 2**32
    return word ^ word >> 16


def slow_random_erasing(
    image, draws, probability=0.5, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3), fill="random"
):
    height, width, _ = image.shape
    first, second, third, fourth = (int(word) for word in draws)
    out = image.copy()
    if first / 2**32 >= probability:
        return out
    size = height * width * (area[0] + second / 2**32 * (area[1] - area[0]))
    ratio = aspect[0] * (aspect[1] / aspect[0]) ** ((third // 2**18 + 0.5) / 2**14)
    ratio = min(max(ratio, size / width**2), height**2 / size)
    rows = min(max(round(math.sqrt(size * ratio)), 1), height)
    columns = min(max(round(size / rows), 1), width)
    top, left = fourth // 2**16 % (height - rows + 1), fourth % 2**16 % (width - columns + 1)
    filling = np.full_like(image, 0 if fill == "random" else fill)
    if fill == "random":
        mixed = [murmur(first ^ i * 0x9E3779B9 % 2**32) for i in range(-(-image.size // 4))]
        values = b"".join(word.to_bytes(4, "little") for word in mixed)
        filling = np.frombuffer(values, np.uint8)[: image.size].reshape(image.shape)
    for row in range(top, top + rows):
        for column in range(left, left + columns):
            out[row, column] = filling[row, column]
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
    ("random_erasing", slow_random_erasing, {}),
    ("random_erasing", slow_random_erasing, {"probability": 1, "area": (0.3, 1), "fill": 9}),
    ("random_erasing", slow_random_erasing, {"probability": 1, "aspect": (0.01, 100)}),
]


@pytest.mark.parametrize(
    ("name", "slow", "parameters"), CASES, ids=[f"{n}-{p}" for n, _, p in CASES]
)
def test_an_augmentation_equals_its_slow_reference(name, slow, parameters):
    batch, draws = images(64), words(64)

    got = augment(name, batch, draws, **parameters)

    want = np.stack([slow(i, d, **parameters) for i, d in zip(batch, draws, strict=True)])
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"hue": 0.5},
        {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5},
        {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0.1},
        {"brightness": 0, "contrast": 0, "saturation": 0.7},
        {"brightness": 0.2, "contrast": 0, "saturation": 0},
    ],
    ids=str,
)
def test_colour_equals_its_slow_reference_to_a_rounding(channels, parameters):
    batch, draws = images(64, (7, 11, channels)), words(64)

    got = augment("colour", batch, draws, **parameters)

    want = np.stack([slow_colour(i, d, **parameters) for i, d in zip(batch, draws, strict=True)])
    differences = np.abs(got.astype(int) - want)
    assert differences.max() <= 1
    assert differences.mean() < 0.05  # a hue out of 16,384 differs from that of all 32 bits


def test_every_augmentation_has_a_slow_reference_here():
    elsewhere = {"colour", "mixup"}  # compared to a rounding, and exactly

    assert {name for name, _, _ in CASES} | elsewhere == set(AUGMENTATIONS.names())


@EACH
@pytest.mark.parametrize("shape", [SHAPE, (8, 8, 1), (1, 1, 4)], ids=str)
def test_shape_and_type_are_kept(name, shape):
    change(name, images(5, shape), words(5))


@EACH
def test_the_same_draws_give_the_same_images_and_others_do_not(name):
    batch = images()

    first = change(name, batch, words(seed=1))

    assert_equal(first, change(name, batch, words(seed=1)))
    assert (first[0] != augment(name, batch, words(seed=2))).any()
    assert (first[0] != (pairs(batch)[0].numpy() if mixes(name) else batch)).any()


@EACH
def test_small_batches_are_changed_like_one_large_one_to_the_last_bit(name):
    """Of sizes that are no multiples of what a kernel works on at once."""
    batch, draws = images(190), words(190)
    cuts = np.cumsum(range(1, 20))[:-1]

    small = [
        change(name, *part)
        for part in zip(np.split(batch, cuts), np.split(draws, cuts), strict=True)
    ]

    assert len(small) == 19
    joined = [np.concatenate(parts) for parts in zip(*small, strict=True)]
    assert_equal(joined, change(name, batch, draws))


@EACH
def test_an_image_is_changed_by_its_own_draws_alone(name):
    batch, draws = images(), words()
    order = np.random.default_rng(3).permutation(16)

    shuffled = change(name, batch[order], draws[order])

    assert_equal(shuffled, [x[order] for x in change(name, batch, draws)])


@EACH
def test_the_images_given_are_not_changed(name):
    batch = images()
    before = batch.copy()

    change(name, batch, words())

    np.testing.assert_array_equal(batch, before)


@pytest.mark.quick_cases("horizontal_flip", "random_crop", "mixup")
@EACH
def test_it_works_in_a_graph_with_an_unknown_batch_size(name):
    parameters = AUGMENTATIONS.load(name).Parameters()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *SHAPE], tf.uint8),
            tf.TensorSpec([None, 4], tf.uint32),
        ]
    )
    def in_graph(batch, draws):
        return apply(name, batch, draws, parameters)

    for count in (1, 3, 16):
        got = in_graph(images(count), words(count))
        assert_equal(got, change(name, images(count), words(count)))


@EACH
def test_its_docstring_shows_a_recipe_that_can_be_used(name, make_recipe):
    recipe = make_recipe(augmentation=snippet(name))

    make_augment(recipe)

    assert (make_mix(recipe) is not None) == mixes(name)


@EACH
def test_an_unknown_parameter_is_refused(name):
    with pytest.raises(ConfigurationError, match=r"recipe: sise: is not a known key\."):
        validate(AUGMENTATIONS.load(name).Parameters, {"sise": 4}, where="recipe")


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("random_crop", {"padding": 0}, "padding: Input should be greater than or equal to 1."),
        ("cutout", {"size": 0}, "size: Input should be greater than or equal to 1."),
        ("random_erasing", {"probability": 0}, "probability: Input should be greater than 0."),
        ("random_erasing", {"probability": 1.1}, "probability: Input should be less than or eq"),
        ("random_erasing", {"area": [0, 0.5]}, "area.0: Input should be greater than 0."),
        ("random_erasing", {"area": [0.5, 1.5]}, "area.1: Input should be less than or equal"),
        ("random_erasing", {"area": [0.5, 0.4]}, "area: must be [smallest, largest]. Received: "),
        ("random_erasing", {"area": 0.4}, "area: Input should be a valid tuple."),
        ("random_erasing", {"aspect": [2, 1]}, "aspect: must be [smallest, largest]. Received: "),
        ("random_erasing", {"aspect": [0, 1]}, "aspect.0: Input should be greater than 0."),
        (
            "random_erasing",
            {"fill": 256},
            "fill: must be `random` or a whole number from 0 to 255. Received: 256.",
        ),
        ("random_erasing", {"fill": "mean"}, "fill: must be `random` or a whole number from 0 to"),
        ("random_erasing", {"fill": True}, "fill: must be `random` or a whole number from 0 to"),
        ("colour", {"brightness": 1.5}, "brightness: Input should be less than or equal to 1."),
        ("colour", {"contrast": -0.1}, "contrast: Input should be greater than or equal to 0."),
        ("colour", {"saturation": float("nan")}, "saturation: Input should be a finite number."),
        ("colour", {"hue": 0.6}, "hue: Input should be less than or equal to 0.5."),
        (
            "colour",
            {"brightness": 0, "contrast": 0, "saturation": 0},
            "one of brightness, contrast, saturation and hue must be greater than 0. Received: 0",
        ),
        ("mixup", {"alpha": 0}, "alpha: Input should be greater than or equal to 0.01."),
        ("mixup", {"alpha": 101}, "alpha: Input should be less than or equal to 100."),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_parameter_out_of_range_is_refused_with_the_names_of_recipe_and_augmentation(
    make_recipe, name, parameters, message
):
    recipe = make_recipe(augmentation=[{"name": name, **parameters}])

    with pytest.raises(InputError) as caught:
        make_augment(recipe)

    assert str(caught.value).startswith(f"data set tiny: augmentation {name}: {message}")


@pytest.mark.parametrize("names", [["mixup", "horizontal_flip"], ["mixup", "mixup"]], ids=str)
def test_an_augmentation_that_mixes_must_be_the_last_and_the_only_one(make_recipe, names):
    recipe = make_recipe(augmentation=[{"name": name} for name in names])

    with pytest.raises(InputError) as caught:
        make_augment(recipe)

    assert str(caught.value) == (
        "data set tiny: augmentation mixup: must be the last of the list, and the only one that "
        "mixes examples: it mixes what the others have changed. "
        f"Received: {', '.join(names)}."
    )


def within(measured, expected, deviation, count):
    """Whether a mean of `count` draws lies within five standard errors."""
    return abs(measured - expected) < 5 * deviation / count**0.5


def test_half_of_the_images_are_flipped():
    """4,000 draws: one half within five standard errors."""
    batch = np.tile(np.array([0, 255], np.uint8)[None, None, :, None], (4000, 1, 1, 1))

    flipped = augment("horizontal_flip", batch, words(4000))[:, 0, 0, 0] == 255

    assert within(flipped.mean(), 0.5, 0.5, 4000)


def test_every_place_of_a_crop_is_as_frequent():
    batch = np.zeros((4500, 5, 5, 1), np.uint8)
    batch[:, 2, 2] = 1

    cropped = augment("random_crop", batch, words(4500), padding=1)[..., 0]

    places = cropped.sum(0, dtype=np.int64)[1:4, 1:4]
    assert places.sum() == 4500
    assert np.abs(places - 500).max() < 5 * (4500 * 1 / 9 * 8 / 9) ** 0.5


def erased(count=4000, shape=(20, 30, 1), **parameters):
    """Bool [count, height, width]: what was erased."""
    batch = np.zeros((count, *shape), np.uint8)
    return augment("random_erasing", batch, words(count), fill=1, **parameters)[..., 0] == 1


def test_the_share_of_erased_images_is_the_probability():
    touched = erased(probability=0.3).any((1, 2))

    assert within(touched.mean(), 0.3, (0.3 * 0.7) ** 0.5, 4000)


def test_an_erased_area_is_a_rectangle_within_the_ranges():
    area, aspect = (0.05, 0.3), (0.5, 3.0)
    within_image = erased(probability=1, area=area, aspect=aspect)

    rows, columns = within_image.any(2).sum(1), within_image.any(1).sum(1)
    sizes = within_image.sum((1, 2))
    np.testing.assert_array_equal(sizes, rows * columns)
    # Rounding the columns moves the area by half a row, rounding the rows not at all.
    assert (sizes >= area[0] * 600 - rows / 2).all()
    assert (sizes <= area[1] * 600 + rows / 2).all()
    assert within(sizes.mean() / 600, sum(area) / 2, (area[1] - area[0]) / 12**0.5, 4000)
    # Each side is off by half a pixel (the columns by a little more, see above).
    assert ((rows + 0.5) / (columns - 1) >= aspect[0]).all()
    assert ((rows - 0.5) / (columns + 1) <= aspect[1]).all()
    assert rows.min() < 6 < 20 == rows.max()


def test_standing_and_lying_rectangles_are_as_frequent():
    places = erased(probability=1, shape=(40, 40, 1), area=(0.02, 0.3))

    taller = np.sign(places.any(2).sum(1) - places.any(1).sum(1))

    assert (taller != 0).mean() > 0.8
    assert within(taller.mean(), 0, 1, 4000)


def test_every_place_of_an_erased_square_is_as_frequent():
    squares = erased(5000, (8, 8, 1), probability=1, area=(0.25, 0.25), aspect=(1, 1))

    assert (squares.sum((1, 2)) == 16).all()
    corners = squares.argmax(axis=2).max(1), squares.argmax(axis=1).max(1)
    places = np.bincount(np.ravel_multi_index(corners, (5, 5)), minlength=25)
    assert ((places - 200) ** 2 / 200).sum() < 24 + 5 * 48**0.5


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 64, 1), (64, 2, 1)], ids=str)
def test_the_whole_image_can_be_erased_whatever_its_shape_and_the_aspect(shape):
    for aspect in ((0.3, 0.4), (1, 1), (5, 9)):
        assert erased(50, shape, probability=1, area=(1, 1), aspect=aspect).all()


def test_random_values_of_erasing_are_uniform_and_without_pattern():
    batch = np.zeros((400, 16, 16, 3), np.uint8)
    whole = {"probability": 1, "area": (1, 1)}
    noise = augment("random_erasing", batch, words(400), **whole).reshape(400, -1).astype(float)

    counts = np.bincount(noise.astype(int).ravel(), minlength=256)
    expected = noise.size / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * 510**0.5
    for other in (np.roll(noise, 1, axis=1), np.roll(noise, 4, axis=1), np.roll(noise, 1, axis=0)):
        assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 5 / noise.size**0.5


def luma_of(batch):
    return batch @ np.array([0.299, 0.587, 0.114])


def coloured(batch, draws, **parameters):
    """With strengths of 0 but for those given; draws are words, [4] for all images."""
    zero = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    words_of_all = np.tile(np.array(draws, np.uint32), (len(batch), 1))
    return augment("colour", batch, words_of_all, **{**zero, **parameters})


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colour_of_strength_zero_is_the_identity(channels):
    batch = images(300, (8, 8, channels))

    all_but_hue = {"brightness": 1, "contrast": 1, "saturation": 1}
    np.testing.assert_array_equal(coloured(batch, [MIDDLE] * 4, **all_but_hue), batch)
    none_of_these = coloured(batch, [0, MIDDLE, 0, 0], contrast=1)
    np.testing.assert_array_equal(none_of_these, batch)


def test_colour_at_its_extremes_is_black_bright_plain_grey_or_of_another_hue():
    batch = images(20)
    luma = luma_of(batch)
    low, high = [0] * 4, [2**32 - 1] * 4

    assert not coloured(batch, low, brightness=1).any()
    bright = np.minimum(np.floor(1.5 * batch + 0.5), 255)
    np.testing.assert_array_equal(coloured(batch, high, brightness=0.5), bright)
    plain = np.tile(luma.mean((1, 2))[:, None, None, None], (1, *SHAPE))
    assert np.abs(coloured(batch, low, contrast=1) - plain).max() <= 0.501
    grey = np.tile(luma[..., None], 3)
    assert np.abs(coloured(batch, low, saturation=1) - grey).max() <= 0.55
    soft = (96 + batch // 8).astype(np.uint8)  # nothing is clipped
    turned = coloured(soft, low, hue=0.5)
    assert np.abs(turned + soft - 2.0 * np.tile(luma_of(soft)[..., None], 3)).max() < 0.6


def test_a_turn_of_the_hue_keeps_the_luma():
    soft = (112 + images(20) // 8).astype(np.uint8)

    turned = augment("colour", soft, words(20), brightness=0, contrast=0, saturation=0, hue=0.5)

    assert (turned != soft).any((1, 2, 3)).all()
    assert np.abs(luma_of(turned.astype(float) - soft)).max() < 0.6


def test_a_fourth_channel_is_no_colour():
    batch = images(8, (5, 6, 4))

    got = augment("colour", batch, words(8))

    np.testing.assert_array_equal(got[..., 3], batch[..., 3])
    np.testing.assert_array_equal(got[..., :3], augment("colour", batch[..., :3], words(8)))


def test_grey_images_have_neither_saturation_nor_hue():
    batch = images(8, (5, 6, 1))

    np.testing.assert_array_equal(coloured(batch, [0] * 4, saturation=1, hue=0.5), batch)


def mixture(weights_of, draws, *, shape=(2, 2, 1)):
    """Mixes images of 1 and class 0 with partners of 0 and class 2."""
    count = len(draws)
    module = AUGMENTATIONS.load("mixup")
    label, partner = (np.tile(np.eye(3, dtype=np.float32)[c], (count, 1)) for c in (0, 2))
    ones = np.ones((count, *shape), np.float32)
    arrays = (tf.constant(x) for x in (ones, label, 0 * ones, partner, draws))
    return [x.numpy() for x in module.mix(*arrays, module.Parameters(alpha=weights_of))]


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1, 7, 100])
def test_mixed_labels_are_those_of_the_mixed_pixels_and_sum_to_one(alpha):
    pixels, labels = mixture(alpha, words(1000))

    for value in pixels.reshape(1000, -1).T:
        np.testing.assert_array_equal(value, labels[:, 0])
    np.testing.assert_array_equal(labels[:, 1], 0)
    np.testing.assert_array_equal(labels[:, 2], 1 - labels[:, 0])
    assert np.abs(labels.sum(1) - 1).max() < 1e-6
    assert labels.min() >= 0


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1, 3])
def test_the_weights_have_the_distribution_of_beta(alpha):
    """The largest distance of the distribution functions, mean and variance, n = 20,000."""
    count = 20_000
    weights = np.sort(mixture(alpha, words(count), shape=(1, 1, 1))[0].ravel().astype(np.float64))

    variance = 1 / (4 * (2 * alpha + 1))
    fourth = stats.beta(alpha, alpha).stats("k") + 3
    assert within(weights.mean(), 0.5, variance**0.5, count)
    spread = variance * (float(fourth) - 1) ** 0.5
    assert within(((weights - 0.5) ** 2).mean(), variance, spread, count)
    for place in np.linspace(0.01, 0.99, 50):  # between the values, which a table has
        share = stats.beta(alpha, alpha).cdf(place)
        assert within((weights <= place).mean(), share, (share * (1 - share)) ** 0.5, count)


def test_a_weight_of_one_half_is_the_middle_and_the_words_are_in_order():
    one_in_order = np.zeros((5, 4), np.uint32)
    one_in_order[:, 0] = [0, 2**30, MIDDLE, 3 * 2**30, 2**32 - 1]

    weights = mixture(1, one_in_order)[1][:, 0]

    np.testing.assert_allclose(weights, [0, 0.25, 0.5, 0.75, 1], atol=2**-14)
    np.testing.assert_array_equal(weights[:2] + weights[:2:-1], [1, weights[1] + weights[3]])
