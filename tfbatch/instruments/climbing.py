"""Inside a process that may die of it: work at growing sizes, each peak written down at once.

A process's peak never sinks, so that several sizes in increasing order may share one process: the
peak after each is that of the largest so far. What is verified gets a process of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from tfbatch.errors import TfbatchError
from tfbatch.out_of_memory import is_out_of_memory, memory_message
from tfbatch.tracebacks import short_traceback

SLOW_SECONDS = 20.0
"""A climb that has taken this long ends as soon as memory is seen to grow."""
GROWN = 1.3
"""Memory is seen to grow when the peak is this many times the first."""
_WORST_SCORE = "1000"


class Load(Protocol):
    """What is run at each size. Each method returns the process's peak in bytes."""

    def begin(self) -> int:
        """Makes everything ready that is needed at any size."""

    def step(self, size: int) -> int:
        """Runs one size; fails as TensorFlow does where the machine refuses memory."""

    def finish(self) -> int | None:
        """What belongs to every run whatever its size, or None where there is nothing."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How the work of a process ended that lived to tell it.

    Attributes:
        outcome: "ok", "oom" for a refusal of memory, "error" for any other exception.
        message: The refusal in a line, or the exception's traceback.
    """

    outcome: Literal["ok", "oom", "error"]
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Peak:
    """A size that was run, and the process's peak after it in bytes."""

    size: int
    peak_bytes: int


@dataclasses.dataclass(frozen=True)
class Written:
    """What a process has written down; complete also where it died.

    Attributes:
        started_bytes: Peak before the first size; None if it did not come so far.
        peaks: The sizes that were run, in order.
        finished_bytes: Peak after `Load.finish`.
        running: The size that was begun and has not ended, or None.
    """

    started_bytes: int | None = None
    peaks: tuple[Peak, ...] = ()
    finished_bytes: int | None = None
    running: int | None = None


def climb(
    load: Load,
    sizes: Sequence[int],
    *,
    budget_bytes: float,
    record: Path,
    now: Callable[[], float],
) -> Ended:
    """Runs sizes in increasing order, and no size that is seen not to fit.

    Args:
        load: What to run.
        sizes: The sizes.
        budget_bytes: Bytes that may be used.
        record: File for what is measured, a line for each event.
        now: A clock, in seconds.

    Raises:
        TfbatchError: As the load does: what a user asked for cannot be used.
    """
    die_first()
    with record.open("a", encoding="utf-8", buffering=1) as file:  # line by line

        def write(event: str, *values: int | None) -> None:
            file.write(json.dumps([event, *values]) + "\n")

        try:
            write("started", load.begin())
            began = now()
            peaks: list[Peak] = []
            for size in sizes:
                if peaks and not _has_room(peaks, size, budget_bytes, now() - began):
                    break
                write("running", size)
                peaks.append(Peak(size, load.step(size)))
                write("peak", size, peaks[-1].peak_bytes)
            if peaks[-1].peak_bytes <= budget_bytes:
                write("finished", load.finish())
        except TfbatchError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                return Ended("oom", memory_message(error))
            return Ended("error", short_traceback(error))  # of a user's own code
    return Ended("ok")


def read_written(record: Path) -> Written:
    """What a process has written, also if its last line was cut short."""
    written = Written()
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            written = _after(written, *json.loads(line))
    return written


def die_first() -> None:
    """Where memory runs out, the kernel is to kill this process and not its parent."""
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text(_WORST_SCORE, encoding="utf-8")


def _after(written: Written, event: str, *values: int) -> Written:
    if event == "started":
        return dataclasses.replace(written, started_bytes=values[0])
    if event == "running":
        return dataclasses.replace(written, running=values[0])
    if event == "peak":
        return dataclasses.replace(written, peaks=(*written.peaks, Peak(*values)), running=None)
    return dataclasses.replace(written, finished_bytes=values[0])


def _has_room(peaks: Sequence[Peak], size: int, budget_bytes: float, seconds: float) -> bool:
    """Whether a next size may fit, by the last two peaks, and is worth its time."""
    last = peaks[-1]
    if last.peak_bytes > budget_bytes:
        return False
    if len(peaks) == 1:
        return True
    if seconds > SLOW_SECONDS and last.peak_bytes > GROWN * peaks[0].peak_bytes:
        return False
    before = peaks[-2]
    slope = (last.peak_bytes - before.peak_bytes) / (last.size - before.size)
    return last.peak_bytes + slope * (size - last.size) <= budget_bytes
