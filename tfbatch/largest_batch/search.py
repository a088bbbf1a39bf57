"""The largest batch under a memory budget: searched in fresh processes, and verified in one.

The first process climbs through small sizes; the line through its peaks says where to look next.
Every answer has been run in a process of its own, and stayed within the budget there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from tfbatch.errors import InputError
from tfbatch.estimators.memory_line import MemoryPrediction, predict_largest_batch_size
from tfbatch.estimators.memory_search import LargestBatch, Probe, next_probe
from tfbatch.largest_batch.fresh_process import Prober, ProcessRun

MOST_RUNS = 7
"""Processes of one search."""
_NOISE = 0.01
"""Relative error of a peak: three processes at one size span 0.2 to 2 %, at worst 9 % (alexnet)."""
_FIRST = 8  # not 1: code that squeezes a batch of one away is common, and harmless
_ATTEMPTS = 4
_SMALLER = 0.85


@dataclasses.dataclass(frozen=True)
class LargestSize:
    """What a search for the largest size came to.

    Attributes:
        answer: The size, all replicas together, and why the search ended.
        runs: The processes, in order.
        predicted: Where the line through the first process's peaks meets the budget; None where
            it has fewer than two.
    """

    answer: LargestBatch
    runs: tuple[ProcessRun, ...]
    predicted: MemoryPrediction | None

    @property
    def batch_size(self) -> int:
        """The largest size that was run and fits; 0 if none does."""
        return self.answer.batch_size

    @property
    def peak_bytes(self) -> int | None:
        """Peak of the process that ran the answer; None if nothing fits."""
        for run in reversed(self.runs):
            for peak in run.peaks:
                if peak.size == self.batch_size:
                    return peak.peak_bytes
        return None

    @property
    def started_bytes(self) -> int | None:
        """Peak of a process with model and data before its first step; None if never reached."""
        found = [run.written.started_bytes for run in self.runs]
        return next((peak for peak in found if peak is not None), None)


def search_largest(prober: Prober, *, cap: int, replicas: int = 1, growth: int = 2) -> LargestSize:
    """Searches, verifies, and says so if nothing fits.

    Args:
        prober: Runs sizes in a fresh process.
        cap: Largest size allowed, all replicas together.
        replicas: Devices that share every batch equally: only multiples of it are run.
        growth: Each size of the first process is so many times the one before.

    Raises:
        InputError: A cap below the replicas; a failure for a reason other than memory.
    """
    if cap < replicas:
        raise InputError(
            f"The largest allowed batch must be at least 1 for each replica. Received: {cap} for "
            f"{replicas}."
        )
    units = cap // replicas
    runs = [prober.run([unit * replicas for unit in _climbed(units, growth)])]
    if (runs[0].written.finished_bytes or 0) > prober.budget_bytes and not runs[0].alone:
        runs.append(prober.run([replicas]))  # validation alone may be too large for any size
    # One is left to verify a size that was only climbed to.
    more = len(_history(runs, replicas)) + MOST_RUNS - 1 - len(runs)
    while True:
        history = _history(runs, replicas)
        step = next_probe(
            history, budget_bytes=prober.budget_bytes, cap=units, most_probes=more, noise=_NOISE
        )
        settled = isinstance(step, LargestBatch) and (
            not step.batch_size or _ran_alone(runs, step.batch_size * replicas)
        )
        if settled or len(runs) >= MOST_RUNS:
            break
        runs.append(prober.run([step.batch_size * replicas]))
    if not isinstance(step, LargestBatch):  # the last process has failed to verify
        low = max((p.batch_size for p in history if p.fits(prober.budget_bytes)), default=0)
        step = LargestBatch(low, None, "stopped", "the processes are used up", len(runs))
    return LargestSize(
        _in_examples(step, replicas, len(runs)), tuple(runs), _predicted(runs[0], prober)
    )


def _climbed(units: int, growth: int) -> list[int]:
    sizes = [_FIRST * growth**n for n in range(40) if _FIRST * growth**n < units]
    return [*sizes, units]


def _history(runs: Sequence[ProcessRun], replicas: int) -> list[Probe]:
    return [
        dataclasses.replace(probe, batch_size=probe.batch_size // replicas)
        for run in runs
        for probe in run.probes()
    ]


def _ran_alone(runs: Sequence[ProcessRun], size: int) -> bool:
    return any(run.alone and run.sizes == (size,) and run.outcome == "ok" for run in runs)


def _in_examples(answer: LargestBatch, replicas: int, runs: int) -> LargestBatch:
    reason = answer.reason if replicas == 1 else f"{answer.reason}, for each replica"
    return dataclasses.replace(
        answer,
        batch_size=answer.batch_size * replicas,
        below=answer.below and answer.below * replicas,
        reason=reason,
        probes=runs,
    )


def _predicted(run: ProcessRun, prober: Prober) -> MemoryPrediction | None:
    peaks = run.written.peaks
    if len(peaks) < 2:
        return None
    return predict_largest_batch_size(
        [peak.size for peak in peaks],
        [peak.peak_bytes for peak in peaks],
        budget_bytes=prober.budget_bytes,
        margin=0.0,
    )


@dataclasses.dataclass(frozen=True)
class Accumulation:
    """How to make a batch that does not fit, by summing the gradients of smaller ones.

    Attributes:
        target: The requested batch size.
        micro_batch_size: Examples in one step.
        steps: Micro-batches in an update of `tfbatch.accumulated`.
        peak_bytes: Peak of a process that ran it, accumulators included; None if it did not fit.
        refused: Why it cannot be run at all; empty where it can.
    """

    target: int
    micro_batch_size: int
    steps: int
    peak_bytes: int | None
    refused: str = ""

    @property
    def batch_size(self) -> int:
        """Examples in an update: the target number where a divisor fits, else a little more."""
        return self.micro_batch_size * self.steps


def plan_accumulation(target: int, *, largest: int, replicas: int = 1) -> tuple[int, int]:
    """Micro-batch and number of steps that make a batch.

        def plan():
            fewest = ceil(target / largest)
            exact = [k for k in range(fewest, 2 * fewest + 1) if target % (k * replicas) == 0]
            steps = exact[0] if exact else fewest
            return ceil(target / steps / replicas) * replicas, steps

    Args:
        target: Examples in an update.
        largest: Largest batch that fits, a multiple of `replicas`.
        replicas: Devices that share every batch.
    """
    fewest = -(-target // largest)
    exact = (k for k in range(fewest, 2 * fewest + 1) if target % (k * replicas) == 0)
    steps = next(exact, fewest)
    return -(-target // (steps * replicas)) * replicas, steps


def verify_accumulation(
    prober_of: Callable[[int], Prober], target: int, *, largest: int, replicas: int = 1
) -> Accumulation:
    """Plans, and runs the plan in a fresh process: the sums of gradients need memory too.

    Args:
        prober_of: `prober_of(steps)` runs sizes with as many micro-batches in an update.
        target: Examples in an update.
        largest: Largest batch that fits without accumulation.
        replicas: Devices that share every batch.
    """
    for _ in range(_ATTEMPTS):
        micro, steps = plan_accumulation(target, largest=largest, replicas=replicas)
        prober = prober_of(steps)
        try:
            (probe,) = prober.run([micro]).probes()
        except InputError as error:  # a loss that no cut keeps, several replicas
            return Accumulation(target, micro, steps, None, refused=str(error))
        if probe.fits(prober.budget_bytes):
            return Accumulation(target, micro, steps, int(probe.peak_bytes or 0))
        smaller = int(micro * _SMALLER) // replicas * replicas
        if smaller < replicas:
            break
        largest = smaller
    return Accumulation(target, micro, steps, None)
