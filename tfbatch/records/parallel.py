"""Serialises a stream of examples on all cores, in its order."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from tfbatch.recipes import Example, Features
from tfbatch.records.codec import encode

_EXAMPLES_PER_TASK = 16
"""Few enough for photographs of 10 MB, and enough that a task costs more than its hand-over."""

Encoded = tuple[str, int, bytes]
"""(split, label, serialised example)"""


def encode_all(
    examples: Iterable[tuple[str, str, Example]], features: Features
) -> Iterator[Encoded]:
    """Serialises each `(split, key, example)`; decoding and resizing leave Python's lock.

    The examples are asked for in this thread, only a few tasks ahead of what is yielded.

    Raises:
        InputError: As `encode`, for the first example that cannot be stored.
    """

    def task(chunk: list[tuple[str, str, Example]]) -> list[Encoded]:
        return [
            (split, example["label"], encode(key, example["image"], example["label"], features))
            for split, key, example in chunk
        ]

    stream = iter(examples)
    workers = os.cpu_count() or 1
    waiting: deque[Future[list[Encoded]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tfbatch-encode")
    try:
        while chunk := list(itertools.islice(stream, _EXAMPLES_PER_TASK)):
            waiting.append(pool.submit(task, chunk))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
