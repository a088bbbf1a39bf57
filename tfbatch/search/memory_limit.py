"""`--memory_budget`: the largest batch that fits, measured before the first trial."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfbatch.byte_sizes import bytes_of
from tfbatch.errors import InputError, RunFolderError
from tfbatch.largest_batch.measurement import measure_memory
from tfbatch.process_memory import WORKER_SHARE
from tfbatch.request.execution import AUTOMATIC
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import MEMORY_LIMIT
from tfbatch.search.progress import Progress
from tfbatch.workbench import Bench


@dataclasses.dataclass(frozen=True)
class MemoryLimit:
    """What was measured.

    Attributes:
        memory_budget: As asked, such as "8 GB" or "auto".
        workers: Worker processes that share it.
        device: "CPU", or the GPU's name.
        largest_asked: The largest size that was of interest.
        largest_batch_size: The largest up to it that a training fits with; 0 for none.
        conclusion: The measurement in words.
    """

    memory_budget: str
    workers: int
    device: str
    largest_asked: int
    largest_batch_size: int
    conclusion: str

    def answers(self, memory_budget: str, workers: int, largest: int) -> bool:
        """Whether it is what would be measured again."""
        same = (memory_budget, workers) == (self.memory_budget, self.workers)
        bounded = self.largest_batch_size < self.largest_asked
        return same and (bounded or largest <= self.largest_asked)

    def check(self, *, batch_sizes: Sequence[int], baseline: int) -> None:
        """Refuses a search of which nothing, or not the baseline, fits.

        Raises:
            InputError: The smallest batch size of the search, or the baseline's, does not fit.
        """
        remedy = "Raise --memory_budget, or let fewer --workers share it."
        if min(batch_sizes) > self.largest_batch_size:
            raise InputError(
                f"No batch size of the search fits into the memory. Received: {min(batch_sizes)} "
                f"as the smallest, and {self._received()}. {self.conclusion} {remedy}"
            )
        if baseline > self.largest_batch_size:
            raise InputError(
                "The baseline's batch size must fit into the memory. Received: "
                f"{baseline}, and {self._received()}. {self.conclusion} {remedy} Or give a smaller "
                f"one: --baseline=batch_size={self.largest_batch_size}."
            )

    def _received(self) -> str:
        shared = f" for {self.workers} workers" if self.workers > 1 else ""
        return f"a memory budget of {self.memory_budget}{shared}"


def limit_memory(
    bench: Bench, memory_budget: str, sizes: Sequence[int], folder: Path, progress: Progress
) -> int:
    """The largest size that fits each worker's part of the budget.

    By the same measurement as `tfbatch.find_max_batch_size`: full training steps in fresh
    processes, the answer run. What an earlier session of the run has measured counts.

    Args:
        bench: Model and data.
        memory_budget: Bytes for all workers, such as "8 GB", or "auto".
        sizes: The search's batch sizes.
        folder: The run folder.
        progress: Told what is found.

    Raises:
        InputError: No size fits, or the baseline's does not.
        RunFolderError: What was kept is damaged.
    """
    devices, baseline = bench.devices, bench.baseline.batch_size
    largest = max(*sizes, baseline)
    found = _read(folder / MEMORY_LIMIT)
    if found is None or not found.answers(memory_budget, devices.workers, largest):
        progress.say("Measuring the largest batch that fits into the memory.")
        total = None if memory_budget == AUTOMATIC else bytes_of(memory_budget)
        # A GPU's memory is its worker's own; that of the machine is shared by all workers.
        share = devices.workers if devices.kind == "CPU" else 1
        report = measure_memory(
            bench,
            budget_bytes=total / share if total else None,
            margin=0.0 if total else 1 - WORKER_SHARE / share,
            largest=largest,
            evaluation=False,
        )
        found = MemoryLimit(
            memory_budget,
            devices.workers,
            report.device,
            largest,
            report.batch_size,
            report.conclusion(),
        )
        write_whole(folder / MEMORY_LIMIT, json.dumps(dataclasses.asdict(found), indent=1) + "\n")
    found.check(batch_sizes=sizes, baseline=baseline)
    progress.say(found.conclusion)
    left_out = [size for size in sizes if size > found.largest_batch_size]
    if left_out:
        progress.say(f"Left out, as too large: {', '.join(map(str, left_out))}.")
    return found.largest_batch_size


def read_memory_limit(folder: Path) -> dict[str, Any] | None:
    """What a run has measured, for its answer; None if nothing."""
    found = _read(folder / MEMORY_LIMIT)
    return dataclasses.asdict(found) if found else None


def _read(path: Path) -> MemoryLimit | None:
    if not path.exists():
        return None
    try:
        return MemoryLimit(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RunFolderError(
            f"{path} is damaged: {error!r}. Remove it: memory is measured again."
        ) from error
