"""Image files as bytes: which TensorFlow decodes as they are, and PNG bytes for the others.

`tf.io.decode_image` reads no TIFF and no PPM, cuts 16 bits to 8, and takes the indices of a BMP's
palette for grey values. Such files become PNG without loss, by Pillow; those of more than 8 bits
only with a range of values that the caller chooses.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfbatch.dataset_info.recipe import PixelRange
from tfbatch.errors import DataError, InputError

if TYPE_CHECKING:
    import tensorflow as tf

SUFFIXES = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".png"),
    *(".jfif", ".jpe", ".pbm", ".pgm", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
"""Those of `keras.utils.image_dataset_from_directory` and of torchvision, and JPEG's other two."""

MOST_NAMES = 10
"""Files that a message names; of further ones it gives the number."""
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST_OF_PNM = re.compile(rb"P[2356]\s+(?:#[^\n]*\n\s*)*\d+\s+(?:#[^\n]*\n\s*)*\d+\s+(\d+)")
_SAMPLE_BITS = 258
"""TIFF's tag BitsPerSample."""


class UnreadableImageError(DataError):
    """An image that cannot be decoded.

    Attributes:
        name: The image's file, or the example's key.
        reason: What is wrong with it, without a full stop.
    """

    def __init__(self, name: str, reason: str):
        self.name = name
        self.reason = reason
        super().__init__(name, reason)

    def __str__(self) -> str:
        return (
            f"{shown(self.name)} cannot be decoded as an image: {self.reason}. Replace it or "
            "remove it from the data."
        )


def shown(name: str) -> str:
    """A file's name that can be printed: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def listed(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(shown, names[:MOST_NAMES])) + more


def decodable(name: str, encoded: bytes, pixel_range: PixelRange | None = None) -> bytes:
    """Returns bytes that `tf.io.decode_image` decodes to the image's own 8-bit values.

    Args:
        name: The file, for messages.
        encoded: Its bytes.
        pixel_range: Needed for images of more than 8 bits: (low, high) becomes (0, 255), values
            outside are clipped.

    Raises:
        UnreadableImageError: It is not an image, or is damaged. JPEG, GIF and PNG are not checked.
        InputError: It has more than 8 bits per channel, and there is no `pixel_range`.
    """
    if not encoded:
        raise UnreadableImageError(name, "the file is empty")
    if encoded.startswith((b"\xff\xd8\xff", b"GIF8")) or _is_plain_bmp(encoded):
        return encoded
    if encoded.startswith(_PNG):
        if encoded[24:25] != b"\x10":
            return encoded
        return _written(_scaled(name, _decode_16_bit_png(name, encoded), pixel_range))
    return _by_pillow(name, encoded, pixel_range)


def has_alpha(path: Path) -> bool:
    """Whether an image has transparency; pixels are not read. False if it is not an image."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return "A" in image.mode or "transparency" in image.info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def without_frame(error: tf.errors.OpError) -> str:
    """The message of a TensorFlow error, without the operation's name around it."""
    text = re.sub(r"^\{\{.*?\}\}\s*", "", str(error.message).strip())
    return re.sub(r"\s*\[Op:.*$", "", text, flags=re.DOTALL).rstrip(".")


def _is_plain_bmp(encoded: bytes) -> bool:
    """A BMP without a palette and without compression."""
    if not encoded.startswith(b"BM"):
        return False
    bits, compression = encoded[28:30], encoded[30:34]
    return bits in (b"\x18\0", b"\x20\0") and compression in (b"\0\0\0\0", b"\3\0\0\0")


def _decode_16_bit_png(name: str, encoded: bytes) -> npt.NDArray[np.uint16]:
    """uint16 [height, width, channels]; Pillow keeps 8 bits of a colour image."""
    import tensorflow as tf

    try:
        with tf.device("CPU:0"):
            pixels = tf.io.decode_png(encoded, dtype=tf.uint16)
    except tf.errors.InvalidArgumentError as error:
        raise UnreadableImageError(name, without_frame(error)) from error
    return np.asarray(pixels)


def _by_pillow(name: str, encoded: bytes, pixel_range: PixelRange | None) -> bytes:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            if getattr(image, "n_frames", 1) > 1:
                raise InputError(
                    f"{shown(name)} holds {getattr(image, 'n_frames', 1)} images. Save each in "
                    "its own file."
                )
            if image.mode.startswith(("I", "F")):
                return _written(_scaled(name, np.asarray(image), pixel_range))
            _check_bits(name, image, encoded)
            if image.mode in ("1", "L", "LA", "RGB", "RGBA"):
                return _png(image)
            alpha = image.mode in ("PA", "La", "RGBa") or "transparency" in image.info
            return _png(image.convert("RGBA" if alpha else "RGB"))
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, "its image format is unknown") from error
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(name, str(error).rstrip(".")) from error


def _check_bits(name: str, image: Any, encoded: bytes) -> None:
    """Refuses colour images of which Pillow keeps the upper 8 bits."""
    bits = max(getattr(image, "tag_v2", {}).get(_SAMPLE_BITS, (8,)))
    largest = _LARGEST_OF_PNM.match(encoded)
    if bits > 8 or (largest and int(largest[1]) > 255):
        raise InputError(
            f"{shown(name)} is a color image with more than 8 bits per channel in the format "
            f"{image.format}, from which only 8 bits can be read. Save it as a 16-bit PNG."
        )


def _scaled(
    name: str, pixels: npt.NDArray[Any], pixel_range: PixelRange | None
) -> npt.NDArray[np.uint8]:
    """Pixels in 8 bits: low becomes 0, high becomes 255."""
    if not np.isfinite(pixels).all():
        raise UnreadableImageError(name, "it has values that are not finite")
    if pixel_range is None:
        bits = 8 * pixels.dtype.itemsize
        raise InputError(
            f"{shown(name)} has {bits} bits per channel ({pixels.min():g} to {pixels.max():g} in "
            "this image), and images are stored with 8 bits. State which values become 0 and 255: "
            "images:DIR,pixel_range=LOW:HIGH, in a recipe `features.image.pixel_range: [LOW, "
            "HIGH]`, the same for all images."
        )
    low, high = pixel_range
    return to_8_bits(pixels, low=low, high=high)


def to_8_bits(pixels: npt.NDArray[Any], *, low: float, high: float) -> npt.NDArray[np.uint8]:
    """Values brought to 0 to 255, rounded to the nearest.

        def scaled(value):
            return round(255 * clip((value - low) / (high - low), 0, 1))

    Args:
        pixels: Numbers of any kind and shape.
        low: The value that becomes 0.
        high: The value that becomes 255, above `low`.
    """
    share = np.clip((pixels.astype(np.float64) - low) / (high - low), 0, 1)
    return np.rint(255 * share).astype(np.uint8)


def _written(pixels: npt.NDArray[np.uint8]) -> bytes:
    """PNG bytes of pixels [height, width] or [height, width, channels]."""
    from PIL import Image

    return _png(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
