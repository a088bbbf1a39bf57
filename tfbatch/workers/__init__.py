"""Worker processes that stay warm, one a slot: process handling only, no TensorFlow.

What a process does is the caller's business; here it is started, watched, stopped and replaced,
and its ending is read from its exit code, its last output and the kernel's count of kills.
"""

from __future__ import annotations

from tfbatch.workers.process_end import ProcessEndedError
from tfbatch.workers.slot import Slot, warm_slot

__all__ = ["ProcessEndedError", "Slot", "warm_slot"]
