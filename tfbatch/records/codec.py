"""One example to bytes and back: `tf.train.Example` with the features image and label."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.dataset_info.recipe import Features
from tfbatch.encoded_images import UnreadableImageError, decodable, without_frame
from tfbatch.errors import InputError


def encode(key: str, image: bytes | npt.NDArray[np.uint8], label: int, features: Features) -> bytes:
    """Serializes one example. Encoded images are checked to their end: none fails in training.

    Args:
        key: The example's key, for messages.
        image: Encoded bytes, or uint8 pixels; of the recipe's shape, or of any with `resize`.
        label: Class index.
        features: The recipe's features.

    Raises:
        InputError: The label is outside the classes, or the image has another shape or kind, or
            more than 8 bits without a `pixel_range`.
        UnreadableImageError: It cannot be decoded.
    """
    if not 0 <= label < features.label.num_classes:
        raise InputError(
            f"Example {key} has the label {label}, outside the {features.label.num_classes} "
            f"classes of the recipe (0 to {features.label.num_classes - 1}). Correct "
            "`features.label.num_classes`, or the data."
        )
    if isinstance(image, bytes):
        image = decodable(key, image, features.image.pixel_range)
    elif image.dtype != np.uint8:
        raise InputError(
            f"Example {key} must have uint8 pixels. Received: {image.dtype}. The source converts "
            "them, in the same way for all images."
        )
    encoded = features.image.stored == "encoded"
    if encoded and not isinstance(image, bytes) and not features.image.resize:
        raise InputError(
            f"Example {key} has no encoded image. Set `features.image.stored: raw` in the recipe."
        )
    if not encoded or not _is_intact_png(image, features.image.shape):
        pixels, changed = _fit(key, image, features)
        if not encoded:
            image = np.ascontiguousarray(pixels, dtype=np.uint8).tobytes()
        elif changed or not isinstance(image, bytes):
            image = tf.io.encode_png(pixels).numpy()
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    message = tf.train.Example(features=tf.train.Features(feature=feature))
    return bytes(message.SerializeToString(deterministic=True))


def decode_batch(serialized: tf.Tensor, features: Features) -> tuple[tf.Tensor, tf.Tensor]:
    """Parses a batch of serialized examples.

    Args:
        serialized: String [batch].
        features: The recipe's features.

    Returns:
        Images uint8 [batch, height, width, channels] and labels int32 [batch].
    """
    parsed = tf.io.parse_example(
        serialized,
        {
            "image": tf.io.FixedLenFeature([], tf.string),
            "label": tf.io.FixedLenFeature([], tf.int64),
        },
    )
    shape = list(features.image.shape)
    if features.image.stored == "raw":
        images = tf.reshape(tf.io.decode_raw(parsed["image"], tf.uint8), [-1, *shape])
    else:
        images = tf.map_fn(
            lambda encoded: tf.ensure_shape(
                tf.io.decode_image(encoded, channels=shape[2], expand_animations=False), shape
            ),
            parsed["image"],
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
            parallel_iterations=16,
        )
    return images, tf.cast(parsed["label"], tf.int32)


def _is_intact_png(image: Any, shape: tuple[int, int, int]) -> bool:
    """Whether an image is a PNG of this size whose checksums agree: a tenth of decoding it."""
    if not isinstance(image, bytes) or not image.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        return False
    if (int.from_bytes(image[20:24], "big"), int.from_bytes(image[16:20], "big")) != shape[:2]:
        return False
    at, kind = 8, b""
    while kind != b"IEND" and at + 12 <= len(image):  # length, kind, content, checksum
        end = at + 8 + int.from_bytes(image[at : at + 4], "big")
        kind = image[at + 4 : at + 8]
        if zlib.crc32(image[at + 4 : end]) != int.from_bytes(image[end : end + 4], "big"):
            return False
        at = end + 4
    return kind == b"IEND"


def _fit(key: str, image: Any, features: Features) -> tuple[npt.NDArray[np.uint8], bool]:
    """An example's pixels in the recipe's shape, and whether they are not the image's own."""
    shape = features.image.shape
    try:
        pixels = _decode(image, shape[2]) if isinstance(image, bytes) else np.asarray(image)
    except tf.errors.InvalidArgumentError as error:
        raise UnreadableImageError(key, without_frame(error)) from error
    if pixels.shape == shape:
        return pixels, isinstance(image, bytes) and _is_colour_only(image, shape[2])
    if features.image.resize and pixels.ndim == 3 and pixels.shape[2] == shape[2]:
        return crop_and_resize(pixels, height=shape[0], width=shape[1]), True
    raise InputError(
        f"Example {key} has an image of shape {pixels.shape}; the recipe says {shape}. Correct "
        "`features.image.shape`, or set `features.image.resize: true` for images of unequal size."
    )


def _is_colour_only(image: bytes, channels: int) -> bool:
    """Whether grey pixels are asked of a format that TensorFlow decodes to colours alone."""
    return channels == 1 and image.startswith((b"GIF8", b"BM"))


def _decode(image: bytes, channels: int) -> npt.NDArray[np.uint8]:
    if _is_colour_only(image, channels):
        return np.asarray(tf.image.rgb_to_grayscale(_decode(image, 3)))
    return np.asarray(tf.io.decode_image(image, channels=channels, expand_animations=False))


def crop_and_resize(
    pixels: npt.NDArray[np.uint8], *, height: int, width: int
) -> npt.NDArray[np.uint8]:
    """Cuts out the largest centered part with the target's aspect ratio, and resizes it.

        def part(image_height, image_width):
            scale = max(height / image_height, width / image_width)
            return round(height / scale), round(width / scale)

    The policy of `keras.utils.image_dataset_from_directory(crop_to_aspect_ratio=True)`: the same
    as resizing the shorter side and cutting off what the longer one has too much. Bilinear, and
    antialiased, so that a large photograph becomes an average and not a sample of its pixels.

    Args:
        pixels: uint8 [image_height, image_width, channels].
        height: Height of the result, in pixels.
        width: Width of the result, in pixels.

    Returns:
        uint8 [height, width, channels].
    """
    scale = max(height / pixels.shape[0], width / pixels.shape[1])
    rows = min(pixels.shape[0], max(1, round(height / scale)))
    columns = min(pixels.shape[1], max(1, round(width / scale)))
    top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
    part = pixels[top : top + rows, left : left + columns]
    with tf.device("CPU:0"):
        resized = tf.image.resize(part, [height, width], method="bilinear", antialias=True)
    rounded: npt.NDArray[np.uint8] = np.clip(np.rint(resized.numpy()), 0, 255).astype(np.uint8)
    return rounded
