"""One example to bytes and back: `tf.train.Example` with the features image and label."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.recipes import Features


def encode(key: str, image: Any, label: int, features: Features) -> bytes:
    """Serialises one example.

    Args:
        key: The example's key, for messages.
        image: Encoded bytes, or uint8 pixels of the recipe's shape.
        label: Class index.
        features: The recipe's features.

    Raises:
        InputError: The label is outside the classes, or the image has another shape or kind, or
            cannot be decoded.
    """
    if not 0 <= label < features.label.num_classes:
        raise InputError(
            f"Example {key} has the label {label}, outside the {features.label.num_classes} "
            f"classes of the recipe (0 to {features.label.num_classes - 1}). Correct "
            "`features.label.num_classes`, or the data."
        )
    if features.image.stored == "encoded" and not isinstance(image, bytes):
        raise InputError(
            f"Example {key} has no encoded image. Set `features.image.stored: raw` in the recipe."
        )
    try:
        if features.image.stored == "encoded":
            _check_shape(key, (*_encoded_size(image), features.image.shape[2]), features)
        else:
            pixels = tf.io.decode_image(image).numpy() if isinstance(image, bytes) else image
            _check_shape(key, np.shape(pixels), features)
            image = np.ascontiguousarray(pixels, dtype=np.uint8).tobytes()
    except tf.errors.InvalidArgumentError as error:
        raise InputError(
            f"Example {key} has an image that cannot be decoded: {error.message}"
        ) from error
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    message = tf.train.Example(features=tf.train.Features(feature=feature))
    return bytes(message.SerializeToString(deterministic=True))


def decode_batch(serialized: tf.Tensor, features: Features) -> tuple[tf.Tensor, tf.Tensor]:
    """Parses a batch of serialised examples.

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


def _encoded_size(image: bytes) -> tuple[int, int]:
    """(height, width) of an encoded image."""
    if image.startswith(b"\x89PNG\r\n\x1a\n") and len(image) >= 24:  # the header is enough
        return int.from_bytes(image[20:24], "big"), int.from_bytes(image[16:20], "big")
    if image.startswith(b"\xff\xd8\xff"):  # JPEG, the same
        height, width, _ = tf.io.extract_jpeg_shape(image).numpy()
    else:
        height, width, _ = tf.io.decode_image(image, expand_animations=False).shape
    return int(height), int(width)


def _check_shape(key: str, shape: tuple[int, ...], features: Features) -> None:
    if tuple(shape) != tuple(features.image.shape):
        raise InputError(
            f"Example {key} has an image of shape {tuple(shape)}; the recipe says "
            f"{tuple(features.image.shape)}. Correct `features.image.shape`."
        )
