"""Loads of known memory for processes without TensorFlow: a child imports this file."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
from processes import HANG_SECONDS, fall_silent

from tfbatch.largest_batch.fresh_process import climb
from tfbatch.process.memory import begin_peak_resident, peak_resident

MEGABYTE = 2**20


def nothing():
    """What a process does first."""


class Linear:
    """Memory that grows by `per_example` bytes, and breaks at `breaks_at` as `breaks` says.

    Before that it makes the file `tells`.
    """

    def __init__(self, per_example, breaks_at=None, breaks="", finish=None, tells=None):
        self.per_example, self.breaks_at, self.breaks = per_example, breaks_at, breaks
        self.finishing, self.tells = finish, tells
        self.sizes = []

    def begin(self):
        return peak_resident()

    def step(self, size):
        self.sizes.append(size)
        if self.breaks_at is not None and size >= self.breaks_at:
            if self.tells is not None:
                Path(self.tells).touch()
            if self.breaks == "clear_up_after_others":
                if len(self.sizes) > 1:
                    clear_up()
            else:
                globals()[self.breaks]()
        np.ones(int(size * self.per_example), np.uint8)
        return peak_resident()

    def finish(self):
        if self.finishing is None:
            return None
        np.ones(self.finishing, np.uint8)
        return peak_resident()


def linear(options, sizes, budget_bytes, record):
    return climb(
        Linear(**options), sizes, budget_bytes=budget_bytes, record=record, now=time.monotonic
    )


def clear_up():
    """As TensorFlow's allocator near the wall: it says so, and goes on."""
    os.write(
        2,
        b"W tensorflow/core/framework/bfc_allocator.cc:366] Garbage collection: deallocate free "
        b"memory regions (i.e., allocations) so that we can re-allocate a larger region to avoid "
        b"OOM due to memory fragmentation. If you see this message frequently, you are running "
        b"near the threshold of the available device memory and re-allocation may incur great "
        b"performance overhead.\n",
    )


def hang():
    fall_silent()


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(HANG_SECONDS)


def refuse():
    raise ValueError("the loss of this model is odd")


def exceed_address_space():
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit + 64 * MEGABYTE,) * 2)
    np.ones(512 * MEGABYTE, np.uint8)


def abort_like_an_allocator():
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def peaks_around_a_beginning():
    """After 300 MB that were freed; after a beginning; after 100 MB more."""
    np.ones(300 * MEGABYTE, np.uint8)
    before = peak_resident()
    assert begin_peak_resident()
    after = peak_resident()
    np.ones(100 * MEGABYTE, np.uint8)
    return before, after, peak_resident()


def join(group):
    """Enters a control group."""
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))


def balloon():
    """More memory than any limit of a test, kept until the process is ended for it."""
    kept = np.ones(1024 * MEGABYTE, np.uint8)
    time.sleep(HANG_SECONDS)
    del kept
