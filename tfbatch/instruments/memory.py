"""The largest batch under a memory budget: searched in fresh processes, and verified in one.

The first process climbs through small sizes; the line through its peaks says where to look next.
Every answer has been run in a process of its own, and stayed within the budget there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from tfbatch.errors import InputError
from tfbatch.estimators.memory_line import MemoryPrediction, predict_largest_batch_size
from tfbatch.estimators.memory_search import LargestBatch, Probe, next_probe
from tfbatch.instruments.probing import Prober, Run

MOST_RUNS = 7
"""Processes of one search."""
_NOISE = 0.01
"""Relative error of a peak: three processes at one size span 0.2 to 2 %, at worst 9 % (alexnet)."""
_FIRST = 8  # not 1: code that squeezes a batch of one away is common, and harmless


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
    runs: tuple[Run, ...]
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


def search_largest(prober: Prober, *, cap: int, replicas: int = 1) -> LargestSize:
    """Searches, verifies, and says so if nothing fits.

    Args:
        prober: Runs sizes in a fresh process.
        cap: Largest size allowed, all replicas together.
        replicas: Devices that share every batch equally: only multiples of it are run.

    Raises:
        InputError: A cap below the replicas; a failure for a reason other than memory.
    """
    if cap < replicas:
        raise InputError(
            f"The largest allowed batch must be at least 1 for each replica. Received: {cap} for "
            f"{replicas}."
        )
    units = cap // replicas
    runs = [prober.run([unit * replicas for unit in _climbed(units)])]
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


def _climbed(units: int) -> list[int]:
    sizes = [_FIRST << n for n in range(40) if _FIRST << n < units]
    return [*sizes, units]


def _history(runs: Sequence[Run], replicas: int) -> list[Probe]:
    return [
        dataclasses.replace(probe, batch_size=probe.batch_size // replicas)
        for run in runs
        for probe in run.probes()
    ]


def _ran_alone(runs: Sequence[Run], size: int) -> bool:
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


def _predicted(run: Run, prober: Prober) -> MemoryPrediction | None:
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
        wished: The batch that was wished for.
        micro_batch_size: Examples in one step.
        steps: Steps to an update: Keras's `gradient_accumulation_steps`.
        peak_bytes: Peak of a process that ran it, accumulators included; None if it did not fit.
    """

    wished: int
    micro_batch_size: int
    steps: int
    peak_bytes: int | None

    @property
    def batch_size(self) -> int:
        """Examples in an update: the wished number where a divisor fits, else a little more."""
        return self.micro_batch_size * self.steps


def plan_accumulation(wished: int, *, largest: int, replicas: int = 1) -> tuple[int, int]:
    """Micro-batch and number of steps that make a batch.

        def plan():
            fewest = ceil(wished / largest)
            exact = [k for k in range(fewest, 2 * fewest + 1) if wished % (k * replicas) == 0]
            steps = exact[0] if exact else fewest
            return ceil(wished / steps / replicas) * replicas, steps

    Args:
        wished: Examples in an update.
        largest: Largest batch that fits, a multiple of `replicas`.
        replicas: Devices that share every batch.
    """
    fewest = -(-wished // largest)
    exact = (k for k in range(fewest, 2 * fewest + 1) if wished % (k * replicas) == 0)
    steps = next(exact, fewest)
    return -(-wished // (steps * replicas)) * replicas, steps


def verify_accumulation(
    prober_of: Any, wished: int, *, largest: int, replicas: int = 1
) -> Accumulation:
    """Plans, and runs the plan in a fresh process: the sums of gradients need memory too.

    Args:
        prober_of: `prober_of(steps)`, a Prober whose training accumulates.
        wished: Examples in an update.
        largest: Largest batch that fits without accumulation.
        replicas: Devices that share every batch.
    """
    for _ in range(_ATTEMPTS):
        micro, steps = plan_accumulation(wished, largest=largest, replicas=replicas)
        prober: Prober = prober_of(steps)
        (probe,) = prober.run([micro]).probes()
        if probe.fits(prober.budget_bytes):
            return Accumulation(wished, micro, steps, int(probe.peak_bytes or 0))
        smaller = int(micro * _SMALLER) // replicas * replicas
        if smaller < replicas:
            break
        largest = smaller
    return Accumulation(wished, micro, steps, None)


_ATTEMPTS = 4
_SMALLER = 0.85


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """The largest batches under a budget, each verified by running it.

    Attributes:
        budget_bytes: Bytes that a process was allowed, the margin already taken off.
        stated: The budget and its margin in words.
        device: What the memory is of, "CPU" or a kind of GPU.
        replicas: Devices that share every batch equally.
        cap: Largest batch that was allowed, and why, in words.
        training: The largest training batch; validation's own batch fits beside it.
        evaluation: The largest evaluation batch; None if it was not asked for.
        accumulation: How to make the wished batch where it does not fit; else None.
    """

    budget_bytes: float
    stated: str
    device: str
    replicas: int
    cap: str
    training: LargestSize
    evaluation: LargestSize | None
    accumulation: Accumulation | None

    @property
    def batch_size(self) -> int:
        """The largest training batch, all replicas together; 0 if nothing fits."""
        return self.training.batch_size

    @property
    def per_replica_batch_size(self) -> int:
        """The share of one replica."""
        return self.batch_size // self.replicas

    def rows(self) -> list[dict[str, Any]]:
        """A row for each size that was run."""
        kinds = {"training": self.training, "evaluation": self.evaluation}
        return [
            {"kind": kind, "process": number, **row}
            for kind, found in kinds.items()
            if found is not None
            for number, run in enumerate(found.runs, start=1)
            for row in _rows(run)
        ]

    def __str__(self) -> str:
        """The table and the conclusion."""
        lines = [f"Memory budget: {self.stated}; largest batch allowed: {self.cap}."]
        for row in self.rows():
            peak = f"{row['peak_megabytes']:,}" if row["peak_megabytes"] is not None else "?"
            lines.append(
                f"{row['kind']:>10} {row['process']} {row['batch_size']:>8} "
                f"{row['outcome']:>8} {peak:>8} MB"
            )
        return "\n".join([*lines, self.conclusion()])

    def conclusion(self) -> str:
        """What follows, in words."""
        return " ".join(self._sentences())

    def _sentences(self) -> Iterator[str]:
        if not self.batch_size:
            yield _nothing_fits(self.training, self.budget_bytes)
            return
        share = f" ({self.per_replica_batch_size} on each of {self.replicas} replicas)"
        yield (
            f"The largest training batch that fits is {self.batch_size}"
            f"{share if self.replicas > 1 else ''}: {_megabytes(self.training.peak_bytes)} of "
            f"{_megabytes(self.budget_bytes)} ({self.training.answer.reason}; verified, "
            f"{len(self.training.runs)} processes)."
        )
        if self.evaluation:
            yield f"The largest evaluation batch that fits is {self.evaluation.batch_size}."
        made = self.accumulation
        if made and made.peak_bytes:
            yield (
                f"A batch of {made.wished} does not fit: {made.steps} batches of "
                f"{made.micro_batch_size} make one of {made.batch_size} with "
                f"`gradient_accumulation_steps={made.steps}` ({_megabytes(made.peak_bytes)}, "
                "verified)."
            )
        elif made:
            yield (
                f"A batch of {made.wished} does not fit, nor do {made.steps} batches of "
                f"{made.micro_batch_size} with the sum of their gradients."
            )


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    peaks = {peak.size: peak.peak_bytes for peak in run.peaks}
    for probe in run.probes():
        known = probe.peak_bytes or peaks.get(probe.batch_size)
        yield {
            "batch_size": probe.batch_size,
            "outcome": probe.outcome,
            "peak_megabytes": round(known / 2**20) if known else None,
            "process_seconds": round(run.seconds, 1),
        }


def _nothing_fits(found: LargestSize, budget_bytes: float) -> str:
    """Why, with what was measured."""
    smallest = min(
        (probe for run in found.runs for probe in run.probes()),
        key=lambda probe: probe.batch_size,
    )
    run = next(run for run in reversed(found.runs) if smallest in run.probes())
    size = smallest.batch_size
    started = found.started_bytes
    before = f" (with model and data, before any step: {_megabytes(started)})" if started else ""
    if smallest.outcome == "ok":
        trained = run.written.peaks[0].peak_bytes
        of_validation = (
            f", of which the training steps alone are {_megabytes(trained)} and the batch of "
            "validation the rest"
            if smallest.peak_bytes and smallest.peak_bytes > 1.02 * trained
            else ""
        )
        return (
            f"Nothing fits: a batch of {size} peaks at {_megabytes(smallest.peak_bytes)}"
            f"{of_validation}{before}; the budget is {_megabytes(budget_bytes)}."
        )
    if smallest.outcome == "oom":
        seen = f", last seen at {_megabytes(run.highest_bytes)}" if run.highest_bytes else ""
        return (
            f"Nothing fits: a batch of {size} ran out of memory{seen}{before}; the budget is "
            f"{_megabytes(budget_bytes)}. {run.message.strip().splitlines()[0]}"
        )
    return (
        f"No batch could be run, which need not be for lack of memory: a batch of {size} ended as "
        f"{smallest.outcome}{before}. {run.message.strip()}"
    )


def _megabytes(number: float | None) -> str:
    return "unknown" if number is None else f"{number / 2**20:,.0f} MB"
