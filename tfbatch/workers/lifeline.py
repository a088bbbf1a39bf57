"""Inside a worker: it ends when its parent ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.5


def follow_parent(parent: int) -> None:
    """Ends this process within a second of its parent's end, also in the middle of a step.

    On Linux the kernel kills it, whatever it does; a thread that asks for the parent is there for
    other systems, and for a parent that ended before the kernel was asked.

    Args:
        parent: The parent's process ID.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that a terminal, `timeout`, systemd or Slurm sends to every process of a group."""


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Signals to the group wait until the block ends; a process started in it inherits the mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals_to_the_group() -> None:
    """The parent handles them; a worker ends when its parent does."""
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)


def write_output_to(log: Path) -> None:
    """Appends everything that this process prints to a file, also what C++ code writes."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)
