"""What tests share that start processes: limits that only a hang reaches, and waiting for events.

A test's outcome never depends on how fast the machine is.
"""

from __future__ import annotations

import time
from unittest import mock

from tfbatch.workers.slot import worker_mailbox

HANG_SECONDS = 1800
"""Of a process that should have ended by itself, on the slowest machine."""
LONG_AGO = -1e6


def wait_until(true, *, process=None):
    """Waits for an event; fails after a hang, or when the process that is to cause it has ended."""
    end = time.monotonic() + HANG_SECONDS
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def with_long_enough_pauses(measure, holds, *, seconds):
    """What is measured with a pause of so many seconds, or of ten and thirty times as many.

    A pause dominates what the machine does beside it, if not at first then when it is longer.
    """
    for factor in (1, 10, 30):
        found = measure(seconds * factor)
        if holds(found):
            break
    return found


def fall_silent():
    """Inside a worker: hangs, and the last heartbeat was longer ago than any limit.

    The parent need not wait for a limit to pass, so that the limit can be one that no slow machine
    reaches by itself.
    """
    with mock.patch("time.monotonic", return_value=LONG_AGO):
        worker_mailbox().report(0, 0)
    time.sleep(HANG_SECONDS)
