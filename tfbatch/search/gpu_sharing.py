"""`--workers_per_gpu=auto`: how many trials share a GPU, measured before the first trial."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path

from tfbatch.answer.gpu_sharing import GpuSharing, read_gpu_sharing
from tfbatch.answer.memory_limits import MemoryLimit
from tfbatch.configuration import Configuration
from tfbatch.errors import RecordError, RunFolderError, StoppedError
from tfbatch.estimators.side_by_side import LEAST_GAIN, Together, together, workers_worth
from tfbatch.process.memory import WORKER_SHARE, worker_bytes
from tfbatch.process.out_of_memory import is_out_of_memory
from tfbatch.quantities import bytes_of
from tfbatch.request.execution import AUTOMATIC
from tfbatch.search.engine import Engine
from tfbatch.search.progress import Progress
from tfbatch.training.devices import MOST_ON_A_GPU, Devices
from tfbatch.training.side_by_side import look_at_baseline, train_beside_others

SECONDS = 2.0
"""Each number of trainings is measured for so long, starting up and tracing not counted."""
_LEAST_SHARE = 0.5
"""Where all of them ran together for a smaller share of it, nothing is known ..."""
_LONGER = 3.0
"""... and they are measured once more, so many times as long."""
_SHARE_OF_LIMIT = 0.1
"""After this share of a time limit no further number is tried."""
_EVERY_ERROR_OF_A_RUN = (StoppedError, RecordError, RunFolderError)


@dataclasses.dataclass(frozen=True)
class SharingRequest:
    """What is measured, and what bounds it.

    Attributes:
        baseline: What is trained.
        largest: The largest batch size that trials may have, which must fit too.
        fit: Workers on a GPU whose largest batches fit into a memory budget together.
        max_minutes: The run's time limit.
    """

    baseline: Configuration
    largest: int
    fit: float = math.inf
    max_minutes: float | None = None


def share_gpus(engine: Engine, asked: SharingRequest, folder: Path, progress: Progress) -> None:
    """Lets as many trials share each GPU as was measured to be worth it; nothing without a GPU.

    A run that is resumed on the same kind of GPU keeps the number.

    Args:
        engine: Runs no trial.
        asked: What is measured.
        folder: The run folder.
        progress: Told of the number and its reason.

    Raises:
        RunFolderError: What was kept is damaged, or cannot be written.
        RecordError: The records are damaged.
        StoppedError: The user requested a stop.
    """
    devices = engine.devices
    if not devices.gpus:
        return
    found = read_gpu_sharing(folder)
    if found is None or found.device != devices.kind:
        progress.say("Measuring how many trainings side by side on a GPU get most done.")
        found = _Measurement(engine, asked).result()
        found.write(folder)
        progress.say(str(found))
    if found.workers_per_gpu != engine.devices.sharers:
        engine.share_gpus(found.workers_per_gpu)


def workers_that_fit(limit: MemoryLimit | None, gpu_bytes: float) -> float:
    """How many workers have room on a GPU, by what the largest batch was measured to take.

    Args:
        limit: What was measured for one worker; None without a memory budget.
        gpu_bytes: Memory of a GPU, of which "auto" is a share.
    """
    if limit is None or not limit.peaks:
        return math.inf
    asked = None if limit.memory_budget == AUTOMATIC else bytes_of(limit.memory_budget)
    budget = WORKER_SHARE * gpu_bytes if asked is None else asked
    return budget // (1e6 * max(max(peak.megabytes for peak in limit.peaks), 1))


class _Measurement:
    """Trains the baseline in 1, 2, 4 workers of one GPU, as long as doubling them gains."""

    def __init__(self, engine: Engine, asked: SharingRequest):
        self._engine, self._asked = engine, asked
        self._devices: Devices = engine.devices
        self._largest = asked.largest
        self._begun = time.monotonic()
        self._resident = 0

    def result(self) -> GpuSharing:
        """The number, what was measured, and why it is not larger."""
        rates: dict[int, float] = {}
        number = 1
        while not (reason := self._tried(number, rates)):
            number *= 2
        return GpuSharing(
            device=self._devices.kind,
            batch_size=self._asked.baseline.batch_size,
            workers_per_gpu=workers_worth(rates),
            examples_per_second=rates,
            reason=reason,
        )

    def _tried(self, number: int, rates: dict[int, float]) -> str:
        """Measures a number; why no larger one is tried, or "" where twice as many are."""
        if self._engine.devices.sharers != number:
            self._engine.share_gpus(number)
        try:
            found = self._together(number)
        except _EVERY_ERROR_OF_A_RUN:
            raise
        except Exception as error:  # of a training: the smaller number stands
            self._engine.rest()
            if number == 1 and _lacks_memory(error) and self._halve_largest():
                return self._tried(number, rates)
            return f"{number} {_why(error)}"
        if not _is_known(found):
            return f"{number} did not run at the same time for long enough"
        rates[number] = found.examples_per_second
        if workers_worth(rates) < number:
            return f"{number} gained less than {LEAST_GAIN:.0%}"
        return self._why_no_more(2 * number)

    def _halve_largest(self) -> bool:
        """Takes what fits alone for the largest, as trials will; False where that is no more."""
        size = self._asked.baseline.batch_size
        if self._largest <= size:
            return False
        self._largest = max(self._largest // 2, size)
        return True

    def _together(self, number: int) -> Together:
        """Every worker looks before any is measured: tracing takes each of them another time."""
        baseline = self._asked.baseline
        case: Mapping[str, object] = {"baseline": baseline, "largest": self._largest}
        looks = self._engine.call_side_by_side(look_at_baseline, case)
        self._resident = max(look.resident_bytes for look in looks)
        # They begin at times that differ by about what comes around a training.
        seconds = SECONDS + max(look.around for look in looks)
        case = {"baseline": baseline, "per_step": max(look.per_step for look in looks)}
        found = self._measured(case, seconds)
        return found if _is_known(found) else self._measured(case, _LONGER * seconds)

    def _measured(self, case: Mapping[str, object], seconds: float) -> Together:
        case = {**case, "seconds": seconds}
        return together(self._engine.call_side_by_side(train_beside_others, case))

    def _why_no_more(self, number: int) -> str:
        """Why a number is not tried; "" if it is."""
        workers = number * self._devices.gpus
        minutes = self._asked.max_minutes
        if number > MOST_ON_A_GPU:
            return "more are not tried"
        if workers > self._devices.cores:
            return f"{number} on each would have less than a core each"
        if number > self._asked.fit:
            return f"the largest batches of {number} exceed the memory budget"
        if self._resident > worker_bytes(workers):
            return f"{number} on each would fill the host's memory"
        if minutes and time.monotonic() - self._begun > _SHARE_OF_LIMIT * 60 * minutes:
            return f"there was no time to measure {number}"
        return ""


def _is_known(found: Together) -> bool:
    return found.seconds >= _LEAST_SHARE * SECONDS


def _lacks_memory(error: Exception) -> bool:
    return is_out_of_memory(error) or is_out_of_memory(str(error))


def _why(error: Exception) -> str:
    """How a training failed, as the end of a clause."""
    if _lacks_memory(error):
        return "ran out of memory"
    first = next(iter(str(error).strip().splitlines()), "")
    return f"could not be trained ({type(error).__name__}: {first.rstrip('.')})"
