"""What is measured in fresh processes, which may die of it, and how each one ended.

`climb` runs in such a process, at growing sizes, and writes each peak down at once: a process's
peak never sinks, so that several sizes in increasing order may share one process, and the peak
after each is that of the largest so far. What is verified gets a process of its own. `Prober`
starts the processes, watches them, and tells their ends apart.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from tfbatch.errors import STOPPED_EARLY, InputError, SearchError, StoppedError, TfbatchError
from tfbatch.estimators.memory_search import Outcome, Probe
from tfbatch.largest_batch.deadline import NO_DEADLINE, Deadline
from tfbatch.process.memory import peak_resident
from tfbatch.process.out_of_memory import (
    follows_out_of_memory,
    is_near_the_wall,
    is_out_of_memory,
    memory_message,
)
from tfbatch.process.tracebacks import short_traceback
from tfbatch.workers import ProcessEndedError, Slot
from tfbatch.workers.slot import Start

SLOW_SECONDS = 20.0
"""A climb that has taken this long ends as soon as memory is seen to grow."""
GROWN = 1.3
"""Memory is seen to grow when the peak is this many times the first."""
_WORST_SCORE = "1000"
STALL_SECONDS = 600.0
"""A process without a heartbeat for this long is ended."""
_CLEARED_UP = (
    "It ran, but the allocator had to clear up to make room: so near the wall steps are slow, and "
    "the next process may not fit."
)
RunOutcome = Outcome | Literal["cut short"]
CUT_SHORT: Literal["cut short"] = "cut short"
"""The time was over before the process had ended, which says nothing of the size it ran."""
_POLL_SECONDS = 0.05
_TELL_SECONDS = 0.5
_LITTLE = 0.05  # more is no addition to training's peak, but a peak of validation's own


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


Climb = Callable[[tuple[int, ...], float, Path], Ended]
"""`climb(sizes, budget_bytes, record)`: what a fresh process is asked to do."""


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
    _die_first()
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


def _die_first() -> None:
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


def _without_the_last(written: Written) -> Written:
    """As if the last size had not come to its end."""
    last = written.peaks[-1].size
    return dataclasses.replace(written, peaks=written.peaks[:-1], running=last, finished_bytes=None)


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


@dataclasses.dataclass(frozen=True)
class ProcessRun:
    """What one process came to.

    Attributes:
        sizes: What it was to run, in increasing order.
        outcome: "ok"; "oom" if memory was refused or the limit passed; "killed", "timeout"; or
            "cut short" where the time was over: what it ran then was not measured.
        written: What it measured.
        message: Why it did not end well.
        seconds: From its start to its end.
        highest_bytes: The largest peak that the kernel was seen to count for it.
    """

    sizes: tuple[int, ...]
    outcome: RunOutcome
    written: Written
    message: str
    seconds: float
    highest_bytes: int

    @property
    def alone(self) -> bool:
        """Whether it had one size only: its peak is that of the size."""
        return len(self.sizes) == 1

    @property
    def peaks(self) -> tuple[Peak, ...]:
        """The sizes that were run; what belongs to every run is part of a size's that ran alone."""
        peaks, finished = self.written.peaks, self.written.finished_bytes
        if self.alone and peaks and finished is not None:
            return (Peak(peaks[0].size, max(finished, peaks[0].peak_bytes)),)
        return peaks

    def _more_alone(self) -> int:
        """What a size would take more in a process of its own: validation's little share."""
        peaks, finished = self.written.peaks, self.written.finished_bytes
        if self.alone or not peaks or finished is None:
            return 0
        more = finished - peaks[-1].peak_bytes
        return more if more <= _LITTLE * finished else 0

    def probes(self) -> tuple[Probe, ...]:
        """The same for the search."""
        more = self._more_alone()
        found = [Probe(peak.size, "ok", peak.peak_bytes + more) for peak in self.peaks]
        if self.outcome in ("ok", CUT_SHORT):
            return tuple(found)
        if self.written.running is not None:
            return (*found, Probe(self.written.running, self.outcome))
        if found:  # it died of what belongs to every run
            return (*found[:-1], Probe(found[-1].batch_size, self.outcome))
        return (Probe(self.sizes[0], self.outcome),)


class _End(NamedTuple):
    """How a process ended; see ProcessRun."""

    outcome: RunOutcome
    message: str
    highest_bytes: int
    cleared_up: bool = False


@dataclasses.dataclass(frozen=True)
class Prober:
    """Runs a climb in a fresh process for each call.

    Attributes:
        start: How its processes begin.
        climb: `climb(sizes, budget_bytes, record)`, called in the process: a module-level
            function, or a functools.partial of one, that ends in this module's `climb`.
        budget_bytes: Bytes that may be used.
        limit_bytes: A process is ended when its peak passes this; infinite where the memory that
            counts is not the process's own.
        stall_seconds: A process without a heartbeat for this long is ended.
        stop_requested: When true, the process is ended.
        tell: Called at intervals with the size that runs.
        deadline: When it is over no process is begun, and one that runs is ended.
    """

    start: Start
    climb: Climb
    budget_bytes: float
    limit_bytes: float = float("inf")
    stall_seconds: float = STALL_SECONDS
    stop_requested: Callable[[], bool] = lambda: False
    tell: Callable[[str], None] = lambda text: None
    deadline: Deadline = NO_DEADLINE

    def run(self, sizes: Sequence[int]) -> ProcessRun:
        """Runs sizes in increasing order in one new process.

        Raises:
            InputError: The work fails for a reason other than memory, shown with its traceback.
            SearchError: Memory is exhausted before there is any batch.
            StoppedError: A stop is requested.
            TfbatchError: As the climb does.
        """
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="tfbatch-probe-") as folder:
            record = Path(folder) / "peaks"
            end = self._started(tuple(sizes), record)
            written = read_written(record)
        if end.outcome == "error":
            at = written.running or sizes[0]
            raise InputError(
                f"It fails at a batch size of {at}, and not for lack of memory:\n{end.message}"
            )
        outcome: RunOutcome = end.outcome
        message, highest = end.message, end.highest_bytes
        if end.cleared_up and len(sizes) > 1:
            # It may have been what smaller sizes left behind that was cleared up.
            alone = self.run([written.peaks[-1].size])
            outcome, message = alone.outcome, alone.message
            highest = max(highest, alone.highest_bytes)
            if outcome == CUT_SHORT:
                written = _without_the_last(written)
        seconds = time.monotonic() - began
        return ProcessRun(tuple(sizes), outcome, written, message, seconds, highest)

    def _started(self, sizes: tuple[int, ...], record: Path) -> _End:
        """Once more where memory is used up before there is any batch: a driver frees it late.

        Raises:
            SearchError: It is exhausted again. This is not a matter of the batch size.
        """
        message = ""
        for _ in range(2):
            if self.deadline.over:
                return _End(CUT_SHORT, message, 0)
            try:
                return self._watched(sizes, record)
            except ProcessEndedError as error:
                message = error.message
        raise SearchError(
            f"No batch size could be run: memory is exhausted even without a batch. {message} "
            "Free the memory that other processes hold (on a GPU, nvidia-smi lists them)."
        )

    def _watched(self, sizes: tuple[int, ...], record: Path) -> _End:
        slot = Slot(self.start, stall_seconds=self.stall_seconds)
        highest, began, told = 0, time.monotonic(), 0.0
        try:
            future = slot.submit(self.climb, sizes, self.budget_bytes, record)
            while not future.done():
                concurrent.futures.wait([future], timeout=_POLL_SECONDS)
                slot.watch()
                process = slot.mailbox.process()  # 0 before it has begun
                highest = max(highest, peak_resident(process) or 0) if process else highest
                if highest > self.limit_bytes:
                    slot.kill()
                elif self.deadline.over and not future.done():
                    return _End(CUT_SHORT, "", highest)
                if self.stop_requested():
                    raise StoppedError(STOPPED_EARLY)
                if (seconds := time.monotonic() - began) > told + _TELL_SECONDS:
                    told = seconds
                    self.tell(_doing(record, sizes, seconds, self.budget_bytes))
            ended: Ended = slot.result()
            printed = slot.printed()
        except ProcessEndedError as error:
            if highest > self.limit_bytes:
                return _End(
                    "oom", f"Its memory passed {self.limit_bytes:,.0f} bytes: ended.", highest
                )
            if error.starting and error.ending == "oom":
                raise
            return _End(error.ending, error.message, highest)
        finally:
            slot.close()
        if ended.outcome == "ok" and is_near_the_wall(printed):
            return _End("oom", _CLEARED_UP, highest, cleared_up=True)
        if ended.outcome == "error" and follows_out_of_memory(ended.message, printed):
            return _End("oom", ended.message, highest)
        return _End(ended.outcome, ended.message, highest)


def _doing(record: Path, sizes: Sequence[int], seconds: float, budget_bytes: float) -> str:
    """What runs, and what was found so far."""
    written = read_written(record)
    now = f"batch size {written.running}" if written.running else "starting"
    if written.peaks:
        now = now if written.running else "validating"
        last = written.peaks[-1]
        now += (
            f" after {last.size} took {last.peak_bytes / 1e6:,.0f} of {budget_bytes / 1e6:,.0f} MB"
        )
    of = f"batch size {sizes[0]}" if len(sizes) == 1 else f"batch sizes {sizes[0]} to {sizes[-1]}"
    return f"trying {of} in a fresh process: {now}, {seconds:.0f} s"
