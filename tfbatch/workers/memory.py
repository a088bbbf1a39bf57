"""How much memory a worker may keep before it is replaced, and how much a process has used."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

WORKER_SHARE = 0.8
"""All workers together may keep this share of the memory before they are replaced."""


def worker_bytes(workers: int) -> float:
    """The largest resident set, in bytes, that one of `workers` may have between two trials."""
    return WORKER_SHARE * float(psutil.virtual_memory().total) / workers


def peak_resident(process: int | None = None) -> int | None:
    """The largest resident set that a process has had, in bytes: VmHWM. None if it has ended.

    Not `ru_maxrss`: that of a child begins at its parent's peak.

    Args:
        process: Its ID; None for this process.
    """
    path = Path(f"/proc/{process or 'self'}/status")
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", path.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
