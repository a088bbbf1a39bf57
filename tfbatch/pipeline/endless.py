"""Notices a stream that never ends, such as a Keras generator's `while True`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfbatch.errors import InputError
from tfbatch.pipeline.elements import Chunk

STORED_BYTES = 1 << 30
"""The most that is stored of a stream whose length nothing says."""
READ_BYTES = 64 << 30
"""The most that is read of one to count its examples."""
_FIRST_LOOK = 1024
_LAST_LOOK = 1 << 20
_TIMES = 3
_DISTINCT = 100
_REPEATED_BYTES = 64 << 20


class EndWatch:
    """Refuses a stream of unknown length that repeats its examples, or gives too many.

    It is considered endless where every example has come at least three times, and either 100
    differ (a table of few categories repeats itself too) or 64 MiB have been read; and in any case
    after `most_bytes`.

    Args:
        where: What the stream is called in messages.
        most_bytes: Where it is given up.
    """

    def __init__(self, where: str, *, most_bytes: int = STORED_BYTES):
        self._where = where
        self._most_bytes = most_bytes
        self._bytes = self._examples = 0
        self._hashes: list[int] = []
        self._next_look = _FIRST_LOOK

    def add(self, chunk: Chunk) -> None:
        """Takes some examples: each leaf as an array, or as a list of arrays.

        Raises:
            InputError: The stream appears to have no end.
        """
        rows = len(chunk[0])
        self._examples += rows
        self._bytes += sum(_bytes_of(leaf) for leaf in chunk)
        if self._bytes > self._most_bytes:
            raise InputError(
                f"{self._where} has given {self._so_far()} and its length is unknown. {_REMEDY}"
            )
        if len(self._hashes) > _LAST_LOOK:
            return
        self._hashes += [_hash([leaf[row] for leaf in chunk]) for row in range(rows)]
        if len(self._hashes) >= self._next_look:
            self._next_look = 2 * len(self._hashes)
            self._look()

    def _look(self) -> None:
        _, counts = np.unique(np.array(self._hashes, np.uint64), return_counts=True)
        enough = len(counts) >= _DISTINCT or self._bytes >= _REPEATED_BYTES
        if counts.min() >= _TIMES and enough:
            raise InputError(
                f"{self._where} gives the same {len(counts):,} different examples repeatedly: "
                f"after {self._so_far()} each has occurred at least {counts.min()} times. "
                f"{_REMEDY}"
            )

    def _so_far(self) -> str:
        return f"{self._examples:,} examples ({self._bytes / 1e6:,.0f} MB)"


_REMEDY = (
    "It must give each example once and end: remove `repeat()` or `while True`, or cut it with "
    ".take(N). If it does end, state its length: "
    ".apply(tf.data.experimental.assert_cardinality(N))."
)


def refuse_endless(chunks: Iterator[Chunk], *, where: str) -> Iterator[Chunk]:
    """Passes on the chunks of a stream of unknown length; see EndWatch.

    Raises:
        InputError: It appears to have no end.
    """
    watch = EndWatch(where)
    for chunk in chunks:
        watch.add(chunk)
        yield chunk


def _bytes_of(leaf: Any) -> int:
    if isinstance(leaf, list):
        return sum(np.asarray(part).nbytes for part in leaf)
    return sum(map(len, leaf.ravel())) if leaf.dtype == object else int(leaf.nbytes)


def _hash(parts: list[Any]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        array = np.asarray(part)
        digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
    return int.from_bytes(digest.digest(), "little")
