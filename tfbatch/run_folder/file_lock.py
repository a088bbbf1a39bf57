"""A lock that the kernel gives back only when every process that holds it has ended."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path


def hold(lock: Path) -> None:
    """Keeps a shared lock on a file for as long as this process lives."""
    fcntl.flock(os.open(lock, os.O_RDWR | os.O_CREAT, 0o644), fcntl.LOCK_SH)


def wait_until_released(lock: Path, *, seconds: float) -> bool:
    """Waits until no process holds the file's lock; whether that happened in time."""
    if not lock.exists():
        return True
    descriptor = os.open(lock, os.O_RDWR)
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
            else:
                return True
    finally:
        os.close(descriptor)
