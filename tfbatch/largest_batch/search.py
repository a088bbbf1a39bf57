"""The largest batch under a memory budget: searched in fresh processes, and verified in one.

The first process climbs through small sizes; the line through its peaks says where to look next.
Every answer has been run in a process of its own, and stayed within the budget there, unless the
time or the processes were used up before: then the answer is what had been measured, and says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from tfbatch.errors import InputError, SearchError
from tfbatch.estimators.memory_line import MemoryPrediction, predict_largest_batch_size
from tfbatch.estimators.memory_search import LargestBatch, Probe, cut_short, next_probe
from tfbatch.largest_batch.fresh_process import CUT_SHORT, Prober, ProcessRun

MOST_RUNS = 7
"""Processes of one search."""
NOISE = 0.01
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
    def cut_short(self) -> bool:
        """Whether the time was over first: larger sizes may fit."""
        return self.answer.verdict == "cut short"

    @property
    def settled(self) -> bool:
        """Whether it was known where the limit lies before the time or the processes were used up.

        Else larger sizes may fit.
        """
        return self.answer.verdict not in ("cut short", "stopped")

    @property
    def smallest_that_failed(self) -> int | None:
        """The smallest size that was run and does not fit; None if all did that were run."""
        return self.answer.below

    @property
    def verified(self) -> bool:
        """Whether the answer was run in a process of its own, to the end of validation."""
        return _ran_alone(self.runs, self.batch_size)

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
    runs: list[ProcessRun] = []

    def run(sizes: Sequence[int]) -> bool:
        """Whether they were run; not so where the time is over."""
        if not prober.deadline.over:
            runs.append(prober.run(sizes))
            return runs[-1].outcome != CUT_SHORT
        return False

    answer = _answer(run, runs, prober, units=cap // replicas, replicas=replicas, growth=growth)
    if answer is None:
        history = [probe for one in runs for probe in _shown(one, prober.budget_bytes)]
        answer = cut_short(
            _in_units(history, replicas), budget_bytes=prober.budget_bytes, cap=cap // replicas
        )
    predicted = _predicted(runs[0], prober) if runs else None
    return LargestSize(_in_examples(answer, replicas, len(runs)), tuple(runs), predicted)


def _answer(
    run: Callable[[Sequence[int]], bool],
    runs: list[ProcessRun],
    prober: Prober,
    *,
    units: int,
    replicas: int,
    growth: int,
) -> LargestBatch | None:
    """The search itself, for one replica; None where the time is over before its end."""
    if not run([unit * replicas for unit in _climbed(units, growth)]):
        return None
    if (
        (runs[0].written.finished_bytes or 0) > prober.budget_bytes
        and not runs[0].alone
        and not run([replicas])  # validation alone may be too large for any size
    ):
        return None
    # One is left to verify a size that was only climbed to.
    more = len(_history(runs, replicas)) + MOST_RUNS - 1 - len(runs)
    while True:
        history = _history(runs, replicas)
        step = next_probe(
            history, budget_bytes=prober.budget_bytes, cap=units, most_probes=more, noise=NOISE
        )
        settled = isinstance(step, LargestBatch) and (
            not step.batch_size or _ran_alone(runs, step.batch_size * replicas)
        )
        if settled or len(runs) >= MOST_RUNS:
            break
        if not run([step.batch_size * replicas]):
            return None
    if not isinstance(step, LargestBatch):  # the last process has failed to verify
        low = max((p.batch_size for p in history if p.fits(prober.budget_bytes)), default=0)
        step = LargestBatch(low, None, "stopped", "the processes are used up", len(runs))
    return step


def _climbed(units: int, growth: int) -> list[int]:
    sizes = [_FIRST * growth**n for n in range(40) if _FIRST * growth**n < units]
    return [*sizes, units]


def _history(runs: Sequence[ProcessRun], replicas: int) -> list[Probe]:
    return _in_units([probe for run in runs for probe in run.probes()], replicas)


def _in_units(probes: Sequence[Probe], replicas: int) -> list[Probe]:
    return [dataclasses.replace(p, batch_size=p.batch_size // replicas) for p in probes]


def _shown(run: ProcessRun, budget_bytes: float) -> Sequence[Probe]:
    """What a process shows where none follows: without validation that fits, no size does."""
    probes, written = run.probes(), run.written
    died_validating = run.outcome not in ("ok", CUT_SHORT) and written.running is None
    over = (written.finished_bytes or 0) > budget_bytes
    if died_validating or (over and all(probe.fits(budget_bytes) for probe in probes)):
        return [probe for probe in probes if not probe.fits(budget_bytes)]
    return probes


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
        """Examples in an update: the target where a divisor fits, else a little more.

        A little less where there are no more training examples.
        """
        return self.micro_batch_size * self.steps


def plan_accumulation(
    target: int, *, largest: int, replicas: int = 1, most: int | None = None
) -> tuple[int, int]:
    """Micro-batch and number of steps that make a batch.

        def plan():
            fewest = ceil(target / largest)
            exact = [k for k in range(fewest, 2 * fewest + 1) if target % (k * replicas) == 0]
            steps = exact[0] if exact else fewest
            micro = ceil(target / steps / replicas) * replicas
            if micro * steps <= most:
                return micro, steps
            return max((micro - replicas, steps), (micro, most // micro), key=math.prod)

    Args:
        target: Examples in an update.
        largest: Largest batch that fits, a multiple of `replicas`.
        replicas: Devices that share every batch.
        most: Examples that an update may have, at least the target; None for any number.
    """
    fewest = -(-target // largest)
    exact = (k for k in range(fewest, 2 * fewest + 1) if target % (k * replicas) == 0)
    steps = next(exact, fewest)
    micro = -(-target // (steps * replicas)) * replicas
    if most is None or micro * steps <= most:
        return micro, steps
    return max((micro - replicas, steps), (micro, most // micro), key=math.prod)


def verify_accumulation(
    prober_of: Callable[[int], Prober],
    target: int,
    *,
    largest: int,
    replicas: int = 1,
    most: int | None = None,
) -> Accumulation | None:
    """Plans, and runs the plan in a fresh process: the sums of gradients need memory too.

    None where the time is over before a plan has been run.

    Args:
        prober_of: `prober_of(steps)` runs sizes with as many micro-batches in an update.
        target: Examples in an update.
        largest: Largest batch that fits without accumulation.
        replicas: Devices that share every batch.
        most: Number of training examples: no update can have more. None where it does not matter.
    """
    for _ in range(_ATTEMPTS):
        micro, steps = plan_accumulation(target, largest=largest, replicas=replicas, most=most)
        prober = prober_of(steps)
        try:
            run = prober.run([micro])
        except (InputError, SearchError) as error:  # a loss that no cut keeps, several replicas
            return Accumulation(target, micro, steps, None, refused=str(error))
        if run.outcome == CUT_SHORT:
            return None
        (probe,) = run.probes()
        if probe.fits(prober.budget_bytes):
            return Accumulation(target, micro, steps, int(probe.peak_bytes or 0))
        smaller = int(micro * _SMALLER) // replicas * replicas
        if smaller < replicas:
            break
        largest = smaller
    return Accumulation(target, micro, steps, None)
