"""How much memory a process holds and has held."""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path

import psutil

from tfbatch.process.limits import usable_memory

WORKER_SHARE = 0.8
"""All workers together may keep this share of the memory before they are replaced."""


def worker_bytes(workers: int) -> float:
    """The most bytes that one of `workers` may hold between two trials; see `own_resident`."""
    return WORKER_SHARE * usable_memory() / workers


def own_resident() -> int:
    """What this process alone holds of the memory now, in bytes.

    On Linux the pages of mapped files are left out: the system takes them back when it needs them,
    and all processes share them.
    """
    found = psutil.Process().memory_info()
    return int(found.rss - getattr(found, "shared", 0))


def resident(process: int | None = None) -> int | None:
    """The resident set that a process has now, in bytes: VmRSS. None if it has ended.

    Args:
        process: Its ID; None for this process.
    """
    return _counted("VmRSS", process)


def peak_resident(process: int | None = None) -> int | None:
    """The largest resident set that a process has had, in bytes: VmHWM. None if it has ended.

    Not `ru_maxrss`: that of a child begins at its parent's peak.

    Args:
        process: Its ID; None for this process.
    """
    return _counted("VmHWM", process)


def begin_peak_resident() -> bool:
    """Counts this process's peak from here on, without what it has freed; whether it can.

    Linux 4.0 and later. What the C library keeps of freed memory is given back first (glibc): it
    would be used again, and what takes it would not be seen.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def _counted(what: str, process: int | None) -> int | None:
    path = Path(f"/proc/{process or 'self'}/status")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(rf"^{what}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
