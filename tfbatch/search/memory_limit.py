"""`--memory_budget`: the largest batch that fits, measured before the first trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tfbatch.answer.memory_limits import MemoryLimit, MemoryPeak, read_memory_limit
from tfbatch.bench import Bench
from tfbatch.largest_batch.deadline import allowed_seconds
from tfbatch.largest_batch.measurement import MemoryReport, measure_memory
from tfbatch.process.memory import WORKER_SHARE, worker_bytes
from tfbatch.quantities import bytes_of
from tfbatch.request.execution import AUTOMATIC
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import MEMORY_LIMIT
from tfbatch.search.progress import Progress


def limit_memory(
    bench: Bench, memory_budget: str, sizes: Sequence[int], folder: Path, progress: Progress
) -> int | None:
    """The largest size to try: the largest that fits each worker's part of the budget.

    Where the time or the processes were over before that was known, it is the one below the
    smallest that was measured not to fit, or None: what was not measured is left to the trials, as
    without a budget.

    By the same measurement as `tfbatch.find_max_batch_size`: full training steps in fresh
    processes, the answer run. What an earlier session of the run has measured counts, where that
    was on the same kind of device and, with "auto" on a CPU, in as much memory.

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
    baseline = bench.baseline.batch_size
    largest = max(*sizes, baseline)
    found = read_memory_limit(folder)
    if found is None or not _still_holds(found, bench, memory_budget, largest):
        progress.say("Measuring the largest batch that fits into the memory.")
        found = _measured(bench, memory_budget, largest)
        write_whole(folder / MEMORY_LIMIT, found.model_dump_json(indent=1) + "\n")
    found.check(batch_sizes=sizes, baseline=baseline)
    progress.say(found.conclusion)
    possible = found.largest_possible
    left_out = [size for size in sizes if size > possible]
    if left_out:
        progress.say(f"Left out, as too large: {', '.join(map(str, left_out))}.")
    unknown = [size for size in sizes if found.largest_batch_size < size <= possible]
    if unknown:
        progress.say(
            f"Kept, though not measured to fit: {', '.join(map(str, unknown))}. A trial that runs "
            "out of memory ends there, and no batch size as large is tried again."
        )
    return None if math.isinf(possible) else int(possible)


def _still_holds(found: MemoryLimit, bench: Bench, memory_budget: str, largest: int) -> bool:
    """Whether it is what would be measured again."""
    return found.answers(
        memory_budget,
        bench.devices.workers,
        largest,
        device=bench.devices.kind,
        seconds=allowed_seconds(bench),
        automatic_bytes=_automatic_bytes(bench, memory_budget),
    )


def _automatic_bytes(bench: Bench, memory_budget: str) -> float | None:
    """A worker's part of what can be used here; None where it is not that of this process."""
    automatic = memory_budget == AUTOMATIC and bench.devices.kind == "CPU"
    return worker_bytes(bench.devices.workers) if automatic else None


def _measured(bench: Bench, memory_budget: str, largest: int) -> MemoryLimit:
    devices = bench.devices
    total = None if memory_budget == AUTOMATIC else bytes_of(memory_budget)
    # A GPU's memory is that of its own workers; that of the machine is shared by all.
    share = devices.workers if devices.kind == "CPU" else devices.sharers
    report = measure_memory(
        bench,
        budget_bytes=total / share if total else None,
        margin=0.0 if total else 1 - WORKER_SHARE / share,
        largest=largest,
        evaluation=False,
    )
    return MemoryLimit(
        memory_budget=memory_budget,
        workers=devices.workers,
        device=devices.kind,
        largest_asked=largest,
        largest_batch_size=report.batch_size,
        conclusion=report.conclusion(),
        peaks=_peaks(report),
        cut_short_after=report.allowed_seconds if report.training.cut_short else None,
        smallest_that_failed=report.training.smallest_that_failed,
        processes_used_up=not (report.training.settled or report.training.cut_short),
        automatic_bytes=_automatic_bytes(bench, memory_budget),
    )


def _peaks(report: MemoryReport) -> tuple[MemoryPeak, ...]:
    """What each training batch took that was run and fitted; of several runs the most."""
    found: dict[int, int] = {}
    for row in report.rows():
        peak = row["peak_megabytes"]
        if row["kind"] == "training" and row["outcome"] == "ok" and peak is not None:
            found[row["batch_size"]] = max(peak, found.get(row["batch_size"], 0))
    return tuple(MemoryPeak(batch_size=b, megabytes=m) for b, m in sorted(found.items()))
