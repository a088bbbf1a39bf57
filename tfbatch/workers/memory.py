"""How much memory a worker may keep before it is replaced."""

from __future__ import annotations

import psutil

WORKER_SHARE = 0.8
"""All workers together may keep this share of the memory before they are replaced."""


def worker_bytes(workers: int) -> float:
    """The largest resident set, in bytes, that one of `workers` may have between two trials."""
    return WORKER_SHARE * float(psutil.virtual_memory().total) / workers
