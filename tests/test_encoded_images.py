"""Image files of all kinds: the same pixels as Pillow's or the file's own, or a refusal."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfbatch.dataset_info.recipe import Features
from tfbatch.encoded_images import UnreadableImageError, decodable, has_alpha, to_8_bits
from tfbatch.errors import ConfigurationError, DataError, InputError
from tfbatch.pipeline import load_data
from tfbatch.pipeline.dataset_names import derive_recipe
from tfbatch.records.codec import decode_batch, encode
from tfbatch.sources import make_source

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOUR = np.stack([RAMP, 255 - RAMP, RAMP.T], axis=-1)
DEEP = np.arange(0, 210 * 4, 4, dtype=np.uint16)[:208].reshape(13, 16)
"""Values of a 10-bit camera: all of them 0 to 3 where 16 bits are cut to 8."""


def written(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decoded(encoded):
    return np.asarray(tf.io.decode_image(decodable("a", encoded), expand_animations=False))


PALETTE = Image.fromarray(COLOUR).quantize(32)
KINDS = {
    "webp": written(Image.fromarray(COLOUR), "WEBP", lossless=True),
    "tiff": written(Image.fromarray(COLOUR), "TIFF", compression="tiff_lzw"),
    "tiff cmyk": written(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"),
    "tiff 1 bit": written(Image.fromarray(RAMP > 99), "TIFF"),
    "tiff palette": written(PALETTE, "TIFF"),
    "bmp palette": written(PALETTE, "BMP"),
    "bmp 1 bit": written(Image.fromarray(RAMP > 99), "BMP"),
    "bmp": written(Image.fromarray(COLOUR), "BMP"),
    "png palette": written(PALETTE, "PNG", bits=8),
    "ppm": written(Image.fromarray(COLOUR), "PPM"),
    "pgm": written(Image.fromarray(RAMP), "PPM"),
    "gif": written(PALETTE, "GIF"),
}


@pytest.mark.parametrize("encoded", KINDS.values(), ids=KINDS.keys())
def test_every_kind_is_decoded_to_its_own_colours(encoded):
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))

    found = decoded(encoded)

    np.testing.assert_array_equal(np.broadcast_to(found, expected.shape), expected)


def test_what_tensorflow_decodes_by_itself_keeps_its_bytes():
    for encoded in (
        *(KINDS["png palette"], KINDS["gif"], KINDS["bmp"]),
        written(Image.fromarray(COLOUR), "JPEG"),
        written(Image.fromarray(RAMP).convert("LA"), "PNG"),
    ):
        assert decodable("a", encoded) is encoded


def png_16(pixels):
    return bytes(tf.io.encode_png(pixels).numpy())


FLOAT = Image.fromarray(DEEP.astype(np.float32) / 1000)
DEEP_KINDS = {
    "png": (png_16(DEEP[..., None]), 0, 836, "16 bits per channel (0 to 828 in this image)"),
    "png colour": (png_16(np.stack([DEEP] * 3, -1)), 0, 836, "16 bits per channel (0 to 828"),
    "tiff": (written(Image.fromarray(DEEP), "TIFF"), 0, 836, "16 bits per channel (0 to 828"),
    "tiff 32": (written(Image.fromarray(DEEP.astype(np.int32)), "TIFF"), 0, 836, "32 bits per"),
    "tiff float": (written(FLOAT, "TIFF"), 0, 0.836, "32 bits per channel (0 to 0.828"),
}


@pytest.mark.parametrize(
    ("encoded", "low", "high", "message"), DEEP_KINDS.values(), ids=DEEP_KINDS.keys()
)
def test_more_than_8_bits_are_refused_or_scaled_as_asked(encoded, low, high, message):
    with pytest.raises(InputError) as caught:
        decodable("deep.file", encoded)
    assert str(caught.value).startswith("deep.file has ")
    assert message in str(caught.value)
    assert "pixel_range=LOW:HIGH" in str(caught.value)

    plain = decodable("deep.file", encoded, (low, high))
    pixels = np.asarray(tf.io.decode_image(plain))

    expected = np.rint(255 * DEEP.astype(float) / 836).astype(np.uint8)
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected[..., None], pixels.shape))
    assert len(np.unique(pixels)) == 208


def test_values_outside_of_the_range_are_clipped_and_halves_go_to_the_even():
    found = to_8_bits(np.array([-5.0, 0, 1, 2, 510, 600]), low=0, high=510)

    assert found.tolist() == [0, 0, 0, 1, 255, 255]


def deep_colour_tiff():
    """2 x 1 pixels, 16 bits for each of three channels; Pillow writes none."""
    entries = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 128), (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 12)]
    parts = [b"II*\0", (8).to_bytes(4, "little"), len(entries).to_bytes(2, "little")]
    for tag, kind, count, value in entries:
        parts += [part.to_bytes(2, "little") for part in (tag, kind)]
        parts += [part.to_bytes(4, "little") for part in (count, value)]
    head = b"".join([*parts, bytes(4)])
    assert len(head) == 122
    return head + b"\x10\0" * 3 + np.arange(6, dtype="<u2").tobytes()


@pytest.mark.parametrize(
    "encoded", [deep_colour_tiff(), b"P6\n# made\n2 1\n65535\n" + bytes(12)], ids=["tiff", "ppm"]
)
def test_deep_colours_that_cannot_be_read_are_refused(encoded):
    with pytest.raises(InputError, match=r"more than 8 bits per channel.*Save it as a 16-bit PNG"):
        decodable("a", encoded, (0, 1))


DAMAGED = {
    "empty": (b"", "the file is empty"),
    "text": (b"<html>", "image format is unknown"),
    "cut tiff": (KINDS["tiff 1 bit"][:-4], "."),
    "cut webp": (KINDS["webp"][: len(KINDS["webp"]) // 2], "."),
    "nan": (written(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), "not finite"),
}


@pytest.mark.parametrize(("encoded", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_one_sentence(encoded, message):
    with pytest.raises(UnreadableImageError, match=rf"^a cannot be decoded .*{message}"):
        decodable("a", encoded, (0, 1))


def test_several_pages_are_no_image():
    pages = [Image.fromarray(RAMP)] * 2

    with pytest.raises(InputError, match=r"a holds 2 images\. Save each in its own file"):
        decodable("a", written(pages[0], "TIFF", save_all=True, append_images=pages[1:]))


def features(**image):
    return Features.model_validate(
        {
            "image": {"kind": "image", "shape": [13, 16, 1], **image},
            "label": {"kind": "label", "num_classes": 2},
        }
    )


@pytest.mark.parametrize("stored", ["raw", "encoded"])
def test_no_record_is_written_of_cut_pixels(stored):
    encoded = png_16(DEEP[..., None])

    with pytest.raises(InputError, match="key has 16 bits per channel"):
        encode("key", encoded, 0, features(stored=stored))
    assert encode("key", encoded, 0, features(stored=stored, pixel_range=[0, 836]))
    with pytest.raises(InputError, match=r"Example key must have uint8 pixels. Received: uint16"):
        encode("key", DEEP[..., None], 0, features(stored="raw"))


def test_a_range_is_two_increasing_numbers():
    with pytest.raises(ValueError, match="the first number must be below the second"):
        features(pixel_range=[5, 5])


def write(root, images):
    for name, content in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_a_folder_of_deep_images_is_trained_on_at_the_range_that_is_asked_for(tmp_path):
    root = tmp_path / "images"
    write(root, {f"{c}/{i}.png": png_16(DEEP[..., None]) for c in "ab" for i in range(10)})

    with pytest.raises(InputError, match=r"\.png has 16 bits per channel"):
        derive_recipe(f"images:{root}", data_dir=None)
    with pytest.raises(ConfigurationError, match="the first number must be below the second"):
        derive_recipe(f"images:{root},pixel_range=9:0", data_dir=None)
    recipe = derive_recipe(f"images:{root},pixel_range=0:836", data_dir=None)
    data = load_data(recipe, records_dir=tmp_path / "records")

    assert recipe.features.image.pixel_range == (0, 836)
    note = (
        "Values of images with more than 8 bits per channel: 0 to 836 become 0 to 255, others are"
    )
    assert data.describe().notes[0] == f"{note} clipped."
    (images, _), *_ = data.evaluation("train").as_numpy_iterator()
    assert len(np.unique(images[0])) == 208


def test_transparency_is_seen_in_the_header_and_reported(tmp_path):
    clear = Image.fromarray(np.dstack([COLOUR, RAMP]))
    write(
        tmp_path / "images",
        {
            **{f"a/{i}.png": written(clear, "PNG") for i in range(10)},
            **{f"b/{i}.webp": KINDS["webp"] for i in range(10)},
        },
    )
    files = sorted((tmp_path / "images").rglob("*.*"))

    assert sum(map(has_alpha, files)) == 10
    notes = load_data(f"images:{tmp_path}/images", records_dir=tmp_path / "r").describe().notes
    assert "Alpha channels are dropped, as Keras does: 10 of 20 images looked at have one." in notes


class FakeInfo:
    """What `tfds` asks of a data set's description."""

    full_name = "micro/1.0.0"

    def __init__(self, kind):
        import tensorflow_datasets as tfds

        self.splits = {"train": type("Split", (), {"num_examples": 4})()}
        self.features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(4, 4, 1), dtype=kind),
                "label": tfds.features.ClassLabel(num_classes=2),
            }
        )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            np.uint16,
            r"images of micro/1\.0\.0 are uint16.*`features\.image\.pixel_range: ",
        ),
        (np.float32, r"images of micro/1\.0\.0 are float32; .*Give the data itself: tfbatch\.find"),
    ],
)
def test_deep_images_of_tensorflow_datasets_are_refused(monkeypatch, kind, message):
    builder = type("Builder", (), {"info": FakeInfo(kind)})()
    monkeypatch.setattr("tfbatch.sources.tfds._builder", lambda *_: builder)

    with pytest.raises(InputError, match=message):
        make_source("tfds", dataset="micro").describe(None)


def test_deep_arrays_of_a_file_get_the_expression_that_keeps_most(tmp_path):
    np.savez(tmp_path / "a.npz", x=DEEP[None].repeat(4, 0), y=np.arange(4))

    with pytest.raises(DataError) as caught:
        derive_recipe(f"npz:{tmp_path}/a.npz", data_dir=None)

    message = str(caught.value)
    expression = "numpy.interp(x, [0, 828], [0, 255]).round().astype(numpy.uint8)"
    assert f"Received: uint16. Save {expression}" in message
    assert "tfbatch.find_batch_size(model, (x, y))" in message
    x = np.interp(DEEP, [0, 828], [0, 255]).round().astype(np.uint8)
    assert len(np.unique(x)) == 208


@pytest.mark.parametrize("kind", ["gif", "bmp"])
@pytest.mark.parametrize("stored", ["raw", "encoded"])
def test_a_colour_image_among_grey_ones_becomes_grey_whatever_its_format(kind, stored):
    """TensorFlow refuses to decode these two to one channel."""
    held = features(shape=[8, 8, 1], stored=stored)

    images, _ = decode_batch(tf.constant([encode("a", KINDS[kind], 0, held)]), held)

    colours = np.asarray(Image.open(io.BytesIO(KINDS[kind])).convert("RGB"))
    expected = tf.image.rgb_to_grayscale(colours)
    np.testing.assert_array_equal(images[0], expected)
