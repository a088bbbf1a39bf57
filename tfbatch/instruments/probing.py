"""A fresh process that may die: started, watched, and told apart by how it ended."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tfbatch.errors import STOPPED_EARLY, InputError, SearchError, StoppedError
from tfbatch.estimators.memory_search import Outcome, Probe
from tfbatch.instruments.climbing import Ended, Peak, Written, read_written
from tfbatch.out_of_memory import follows_out_of_memory
from tfbatch.workers import ProcessEndedError, Slot
from tfbatch.workers.memory import peak_resident
from tfbatch.workers.slot import Start

STALL_SECONDS = 600.0
"""A process without a heartbeat for this long is ended."""
_POLL_SECONDS = 0.05
_TELL_SECONDS = 0.5
_LITTLE = 0.05  # more is no addition to training's peak, but a peak of validation's own


@dataclasses.dataclass(frozen=True)
class Run:
    """What one process came to.

    Attributes:
        sizes: What it was to run, in increasing order.
        outcome: "ok"; "oom" if memory was refused or the limit passed; "killed", "timeout".
        written: What it measured.
        message: Why it did not end well.
        seconds: From its start to its end.
        highest_bytes: The largest peak that the kernel was seen to count for it.
    """

    sizes: tuple[int, ...]
    outcome: Outcome
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
        if self.outcome == "ok":
            return tuple(found)
        if self.written.running is not None:
            return (*found, Probe(self.written.running, self.outcome))
        if found:  # it died of what belongs to every run
            return (*found[:-1], Probe(found[-1].batch_size, self.outcome))
        return (Probe(self.sizes[0], self.outcome),)


@dataclasses.dataclass(frozen=True)
class Prober:
    """Runs a task in a fresh process for each call.

    Attributes:
        start: How its processes begin.
        task: `task(*arguments, sizes, budget_bytes, record) -> Ended`; it travels by its name.
        arguments: The first arguments.
        budget_bytes: Bytes that may be used.
        limit_bytes: A process is ended when its peak passes this; infinite where the memory that
            counts is not the process's own.
        stall_seconds: A process without a heartbeat for this long is ended.
        stop_requested: When true, the process is ended.
        tell: Called at intervals with the size that runs.
    """

    start: Start
    task: Callable[..., Ended]
    arguments: tuple[Any, ...]
    budget_bytes: float
    limit_bytes: float = float("inf")
    stall_seconds: float = STALL_SECONDS
    stop_requested: Callable[[], bool] = lambda: False
    tell: Callable[[str], None] = lambda text: None

    def run(self, sizes: Sequence[int]) -> Run:
        """Runs sizes in increasing order in one new process.

        Raises:
            InputError: The work fails for a reason other than memory, shown with its traceback.
            SearchError: Memory is exhausted before there is any batch.
            StoppedError: A stop is requested.
            TfbatchError: As the task does.
        """
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="tfbatch-probe-") as folder:
            record = Path(folder) / "peaks"
            arguments = (*self.arguments, tuple(sizes), self.budget_bytes, record)
            outcome, message, highest = self._started(arguments)
            written = read_written(record)
        if outcome == "error":
            at = written.running or sizes[0]
            raise InputError(
                f"It fails at a batch size of {at}, and not for lack of memory:\n{message}"
            )
        seconds = time.monotonic() - began
        return Run(tuple(sizes), outcome, written, message, seconds, highest)

    def _started(self, arguments: tuple[Any, ...]) -> tuple[Outcome, str, int]:
        """Once more where memory is used up before there is any batch: a driver frees it late.

        Raises:
            SearchError: It is exhausted again. This is not a matter of the batch size.
        """
        for _ in range(2):
            try:
                return self._watched(arguments)
            except ProcessEndedError as error:
                message = error.message
        raise SearchError(
            f"No batch size could be run: memory is exhausted even without a batch. {message} "
            "Free the memory that other processes hold (on a GPU, nvidia-smi lists them)."
        )

    def _watched(self, arguments: tuple[Any, ...]) -> tuple[Outcome, str, int]:
        slot = Slot(self.start, stall_seconds=self.stall_seconds)
        highest, began, told = 0, time.monotonic(), 0.0
        try:
            future = slot.submit(self.task, *arguments)
            while not future.done():
                concurrent.futures.wait([future], timeout=_POLL_SECONDS)
                slot.watch()
                process = slot.mailbox.process()  # 0 before it has begun
                highest = max(highest, peak_resident(process) or 0) if process else highest
                if highest > self.limit_bytes:
                    slot.kill()
                if self.stop_requested():
                    raise StoppedError(STOPPED_EARLY)
                if (seconds := time.monotonic() - began) > told + _TELL_SECONDS:
                    told = seconds
                    self.tell(_doing(arguments[-1], arguments[-3], seconds))
            ended: Ended = slot.result()
            printed = slot.printed()
        except ProcessEndedError as error:
            if highest > self.limit_bytes:
                return "oom", f"Its memory passed {self.limit_bytes:,.0f} bytes: ended.", highest
            if error.starting and error.ending == "oom":
                raise
            return error.ending, error.message, highest
        finally:
            slot.close()
        if ended.outcome == "error" and follows_out_of_memory(ended.message, printed):
            return "oom", ended.message, highest
        return ended.outcome, ended.message, highest


def _doing(record: Path, sizes: Sequence[int], seconds: float) -> str:
    running = read_written(record).running
    now = f"batch size {running}" if running else "starting"
    of = f"batch size {sizes[0]}" if len(sizes) == 1 else f"batch sizes {sizes[0]} to {sizes[-1]}"
    return f"trying {of} in a fresh process: {now}, {seconds:.0f} s"
