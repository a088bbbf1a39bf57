"""Images of another size: the center, its aspect ratio kept, averaged and not sampled."""

from __future__ import annotations

import numpy as np
import pytest

from tfbatch.dataset_info.recipe import Features
from tfbatch.errors import InputError, TfbatchError
from tfbatch.records.codec import crop_and_resize, encode


def stripes(height, width):
    """Column x has the value x, in all three channels."""
    return np.broadcast_to(np.arange(width, dtype=np.uint8)[:, None], (height, width, 3)).copy()


def test_a_wide_image_loses_both_sides_alike_and_nothing_in_the_middle():
    cut = crop_and_resize(stripes(4, 10), height=4, width=4)

    np.testing.assert_array_equal(cut[0, :, 0], [3, 4, 5, 6])


def test_a_tall_image_loses_top_and_bottom_alike():
    tall = stripes(4, 10).transpose(1, 0, 2)

    cut = crop_and_resize(tall, height=4, width=4)

    np.testing.assert_array_equal(cut[:, 0, 0], [3, 4, 5, 6])


@pytest.mark.parametrize(
    ("image", "target", "part"),
    [((10, 20), (5, 10), (10, 20)), ((10, 20), (5, 5), (10, 10)), ((30, 20), (10, 20), (10, 20))],
    ids=["same ratio", "square", "wide"],
)
def test_the_largest_centred_part_with_the_targets_ratio_is_kept(image, target, part):
    """Marks the pixels just outside the expected part: none of them may show."""
    pixels = np.full((*image, 1), 255, np.uint8)
    top, left = (image[0] - part[0]) // 2, (image[1] - part[1]) // 2
    pixels[top : top + part[0], left : left + part[1]] = 100

    cut = crop_and_resize(pixels, height=target[0], width=target[1])

    assert cut.shape == (*target, 1)
    assert cut.dtype == np.uint8
    np.testing.assert_array_equal(cut, 100)


def test_a_large_image_is_averaged_and_not_sampled():
    """Of 8 x 8 pixels of noise the mean is left: their deviation of 74 / 8, or a little more."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 1)).astype(np.uint8)

    small = crop_and_resize(noise, height=16, width=16)

    assert small.std() < 15  # of four neighbors, as without antialiasing, 37


def test_small_images_grow_without_over_or_undershoot():
    pixels = np.array([[0, 255], [255, 0]], np.uint8)[..., None]

    grown = crop_and_resize(pixels, height=6, width=6)

    assert (grown.min(), grown.max()) == (0, 255)
    np.testing.assert_array_equal(grown, grown[::-1, ::-1])


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1), (3, 4000)])
def test_extreme_shapes_are_resized_too(shape):
    pixels = np.full((*shape, 3), 7, np.uint8)

    np.testing.assert_array_equal(crop_and_resize(pixels, height=5, width=9), 7)


def test_the_part_is_the_one_that_keras_keeps():
    import keras

    pixels = np.random.default_rng(0).integers(0, 256, (31, 50, 3)).astype(np.uint8)

    theirs = keras.preprocessing.image.smart_resize(pixels, (62, 40))  # enlarged only

    ours = crop_and_resize(pixels, height=62, width=40)
    assert abs(ours - np.rint(theirs)).max() <= 1


@pytest.fixture
def features():
    def make(**image):
        return Features.model_validate(
            {
                "image": {"kind": "image", "shape": [4, 6, 3], "stored": "raw", **image},
                "label": {"kind": "label", "num_classes": 2},
            }
        )

    return make


def stored(record):
    import tensorflow as tf

    return tf.train.Example.FromString(record).features.feature["image"].bytes_list.value[0]


def test_an_image_of_the_right_size_is_not_touched(features):
    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 3)).astype(np.uint8)

    assert stored(encode("a", pixels, 0, features(resize=True))) == pixels.tobytes()


def test_what_is_resized_and_stored_encoded_is_a_png_without_loss(features):
    import tensorflow as tf

    pixels = np.random.default_rng(1).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    small = crop_and_resize(pixels, height=4, width=6)
    for image in (pixels, tf.io.encode_png(pixels).numpy()):
        record = encode("a", image, 0, features(resize=True, stored="encoded"))

        png = stored(record)
        assert png.startswith(b"\x89PNG")
        np.testing.assert_array_equal(tf.io.decode_png(png), small)
        assert stored(encode("a", image, 0, features(resize=True))) == small.tobytes()


def test_without_resize_the_remedy_is_named(features):
    with pytest.raises(
        InputError, match=r"of shape \(9, 12, 3\); the recipe says \(4, 6, 3\)"
    ) as e:
        encode("a", np.zeros((9, 12, 3), np.uint8), 0, features())

    assert "`features.image.resize: true`" in str(e.value)


def test_pixels_with_other_channels_are_refused_and_encoded_grey_ones_become_colour(features):
    import tensorflow as tf

    grey = np.full((8, 12, 1), 9, np.uint8)
    with pytest.raises(InputError, match=r"of shape \(8, 12, 1\)"):
        encode("a", grey, 0, features(resize=True))

    record = encode("a", tf.io.encode_png(grey).numpy(), 0, features(resize=True))

    assert stored(record) == bytes([9] * 4 * 6 * 3)


def test_a_png_with_any_bit_flipped_or_any_piece_cut_off_is_never_stored(features):
    """Only its checksums are looked at; what decoding would refuse, they must refuse."""
    import tensorflow as tf

    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    png = tf.io.encode_png(pixels).numpy()
    encoded = features(stored="encoded")
    assert stored(encode("a", png, 0, encoded)) == png
    for place in range(len(png)):
        flipped = png[:place] + bytes([png[place] ^ 0x10]) + png[place + 1 :]
        for damaged in (flipped, png[:place]):
            try:
                kept = stored(encode("a", damaged, 0, encoded))
            except TfbatchError:
                continue
            # Decoded by the library instead: the same pixels, or the damage is not in them.
            np.testing.assert_array_equal(tf.io.decode_image(kept), pixels)
