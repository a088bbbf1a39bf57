"""A hash of examples that does not depend on their order, to know shuffled data again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.pipeline.elements import Chunk

_BYTES = 16


class ExamplesDigest:
    """The sum of a hash of each example: the same in every process, and for every order."""

    def __init__(self) -> None:
        self._sum = 0

    def watch(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """The same chunks, each added on its way."""
        for chunk in chunks:
            self.add(chunk)
            yield chunk

    def add(self, chunk: Chunk) -> None:
        """Adds the examples of one chunk."""
        for example in zip(*map(rows_as_bytes, chunk), strict=True):
            digest = hashlib.blake2b(digest_size=_BYTES)
            for part in example:
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part)
            self._sum += int.from_bytes(digest.digest(), "little")

    def hexdigest(self) -> str:
        """The sum, in hexadecimal digits."""
        return f"{self._sum % (1 << (8 * _BYTES)):0{2 * _BYTES}x}"


def rows_as_bytes(rows: tf.types.experimental.TensorLike) -> Iterator[bytes]:
    """The bytes of each row of one leaf, as `row_as_bytes` gives them."""
    if isinstance(rows, list):
        return map(row_as_bytes, rows)
    if rows.dtype.kind in "OSU":
        return map(row_as_bytes, rows.reshape(len(rows), math.prod(rows.shape[1:])))
    data = rows.tobytes()
    size = len(data) // max(len(rows), 1)
    return (data[size * row : size * (row + 1)] for row in range(len(rows)))


def row_as_bytes(row: npt.ArrayLike) -> bytes:
    """The bytes of the values of one row; of text, its own, of several texts with their lengths."""
    values = np.asarray(row)
    if values.dtype.kind not in "OSU":
        return values.tobytes()
    texts = [
        text.encode(errors="surrogatepass") if isinstance(text, str) else bytes(text)
        for text in values.reshape(-1)
    ]
    if len(texts) == 1:
        return texts[0]
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)
