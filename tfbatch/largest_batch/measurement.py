"""Measures the largest batch under a memory budget: what was found, as a table and in words."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypedDict

import psutil

from tfbatch.bench import Bench
from tfbatch.errors import InputError, SearchError
from tfbatch.largest_batch.deadline import (
    NO_DEADLINE,
    Deadline,
    allowed_seconds,
    default_seconds,
)
from tfbatch.largest_batch.fresh_process import Climb, Ended, Prober, ProcessRun
from tfbatch.largest_batch.search import (
    Accumulation,
    LargestSize,
    search_largest,
    verify_accumulation,
)
from tfbatch.largest_batch.training_load import (
    UsableMemory,
    find_usable_memory,
    measure_evaluation,
    measure_prediction,
    measure_training,
)
from tfbatch.process.gpus import NOTICEABLE, read_gpus
from tfbatch.process.memory import peak_resident

_LIMIT = 2.0  # a process is measured up to this many times the budget, then ended
_GROWTH_ON_A_GPU = 4
_FREE = 0.9  # but never past this share of what is free
_EVALUATION, _PREDICTION = "evaluation batch", "batch of `predict`"


class MemoryRow(TypedDict):
    """A size that was run, for a table; the peak is None where it is unknown."""

    kind: str
    process: int
    batch_size: int
    outcome: str
    peak_megabytes: int | None
    process_seconds: float


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """The largest batches under a budget, each verified by running it where it is `settled`.

    Attributes:
        budget_bytes: Bytes that a process was allowed, the margin already taken off.
        stated: The budget and its margin in words.
        device: What the memory is of, "CPU" or a kind of GPU.
        replicas: Devices that share every batch equally.
        cap: Largest batch that was allowed, and why, in words.
        training: The largest training batch; validation's own batch fits beside it.
        evaluation: The largest evaluation batch; None if it was not asked for, or failed.
        accumulation: How to make the target batch where it was not found to fit; else None.
        prediction: The largest batch of `predict`; None if it was not asked for, or failed.
        held_by_others: Bytes of the fullest GPU that other processes held when it began.
        allowed_seconds: What all processes together were allowed to take; infinite for no limit.
        more_seconds: What to allow them if that was too little.
        unplanned_target: A batch for which there was no time to find micro-batches, or None.
        failures: Why evaluation or prediction failed, a sentence for each that did.
    """

    budget_bytes: float
    stated: str
    device: str
    replicas: int
    cap: str
    training: LargestSize
    evaluation: LargestSize | None
    accumulation: Accumulation | None
    prediction: LargestSize | None = None
    held_by_others: int = 0
    allowed_seconds: float = math.inf
    more_seconds: float = math.inf
    unplanned_target: int | None = None
    failures: tuple[str, ...] = ()

    @property
    def cut_short(self) -> bool:
        """Whether the time was over before all that was asked for was measured."""
        stages = (self.training, self.evaluation, self.prediction)
        return bool(self.unplanned_target) or any(one and one.cut_short for one in stages)

    @property
    def batch_size(self) -> int:
        """The largest training batch, all replicas together; 0 if none was seen to fit."""
        return self.training.batch_size

    @property
    def per_replica_batch_size(self) -> int:
        """The share of one replica."""
        return self.batch_size // self.replicas

    def rows(self) -> list[MemoryRow]:
        """A row for each size that was run."""
        kinds = {
            "training": self.training,
            "evaluation": self.evaluation,
            "prediction": self.prediction,
        }
        return [
            row
            for kind, found in kinds.items()
            if found is not None
            for number, run in enumerate(found.runs, start=1)
            for row in _rows(kind, number, run)
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
        if not self.training.settled:
            yield _so_far("training batch", self.training, self._of_training())
        elif not self.batch_size:
            yield _nothing_fits(self.training, self.budget_bytes)
            return
        else:
            yield (
                f"The largest training batch that fits is {self.batch_size}{self._of_training()}."
            )
        for kind, found in (
            (_EVALUATION, self.evaluation),
            (_PREDICTION, self.prediction),
        ):
            if found and not found.settled:
                yield _so_far(kind, found)
            elif found:
                yield f"The largest {kind} that fits is {found.batch_size}."
        yield from self.failures
        yield from self._of_others()
        if self.unplanned_target:
            yield f"Micro-batches for a batch of {self.unplanned_target} were not measured."
        if self.cut_short:
            yield (
                f"The time for this search, {self.allowed_seconds:g} s, was over. More time: "
                f"--memory_seconds={self.more_seconds:g}, in Python "
                f"memory_seconds={self.more_seconds:g}."
            )

    def _of_training(self) -> str:
        share = f" ({self.per_replica_batch_size} on each of {self.replicas} replicas)"
        found = self.training
        verified = "verified" if found.verified else "not verified in a process of its own"
        return (
            f"{share if self.replicas > 1 else ''}: {_megabytes(found.peak_bytes)} of "
            f"{_megabytes(self.budget_bytes)} ({found.answer.reason}; {verified}, "
            f"{len(found.runs)} processes)"
        )

    def _of_others(self) -> Iterator[str]:
        if self.held_by_others:
            yield (
                f"Other processes held {_megabytes(self.held_by_others)} of the GPU: alone on it, "
                "more may fit."
            )
        made = self.accumulation
        if made and made.peak_bytes:
            yield (
                f"A batch of {made.target} {self._why_not(made.target)}: "
                f"`tfbatch.accumulated(model, micro_batch_size={made.micro_batch_size})` makes one "
                f"of {made.batch_size} from {made.steps} micro-batches "
                f"({_megabytes(made.peak_bytes)}, verified)."
            )
        elif made:
            yield (
                f"A batch of {made.target} {self._why_not(made.target)}, and {made.steps} "
                f"micro-batches of {made.micro_batch_size} with the sum of their gradients do not "
                f"fit{': ' + made.refused if made.refused else '.'}"
            )

    def _why_not(self, target: int) -> str:
        """Of a larger batch than the largest: whether that is known not to fit, or was not run."""
        answer, failed = self.training.answer, self.training.smallest_that_failed
        if failed is not None and failed <= target:
            return "does not fit"
        allowed = f"the largest allowed is {self.batch_size}"
        return f"was not run ({allowed if answer.verdict == 'cap' else answer.reason})"


def measure_memory(
    bench: Bench,
    *,
    budget_bytes: float | None,
    margin: float,
    largest: int | None = None,
    target_batch_size: int | None = None,
    evaluation: bool = True,
    prediction: bool = False,
    now: Callable[[], float] = time.monotonic,
) -> MemoryReport:
    """The largest batches of what is on a bench; see tfbatch.find_max_batch_size.

    The time that the bench allows is that of all processes together, from now on. Training comes
    first, then micro-batches, evaluation and prediction.
    """
    examples = bench.data.splits["train"]
    if target_batch_size and target_batch_size > examples:
        raise InputError(
            f"`target_batch_size` must be at most the number of training examples, {examples}: a "
            f"plan for more could not be run. Received: {target_batch_size}."
        )
    deadline = Deadline.begin(allowed_seconds(bench), now)
    usable = bench.measure(find_usable_memory)
    bench.rest()  # it would hold memory of the device beside what is measured
    replicas = usable.replicas
    on_gpu = usable.device != "CPU"
    # On a GPU each size may be compiled anew, and small ones do not tell of the large ones.
    growth = _GROWTH_ON_A_GPU if on_gpu else 2
    others = max((gpu.held_bytes for gpu in read_gpus().gpus), default=0) if on_gpu else 0
    budget = (budget_bytes or usable.size_bytes) * (1 - margin)
    one = bench.configuration(1)

    def training(steps: int) -> Climb:
        return bench.task(measure_training, one, steps)

    with open_prober(
        bench, training(1), usable=usable, budget_bytes=budget, deadline=deadline
    ) as prober:
        cap, why = _cap(bench, largest, replicas)
        trained = search_largest(prober, cap=cap, replicas=replicas, growth=growth)
        accumulation, wanted = None, trained.batch_size < (target_batch_size or 0)
        if target_batch_size and wanted and trained.batch_size:
            accumulation = verify_accumulation(
                lambda steps: dataclasses.replace(prober, climb=training(steps)),
                target_batch_size,
                largest=trained.batch_size,
                replicas=replicas,
                most=examples,
            )
        failures: list[str] = []

        def alone(kind: str, measure: Callable[..., Ended]) -> LargestSize | None:
            """Where it fails, what was found of the training must not be lost."""
            try:
                return search_largest(
                    dataclasses.replace(prober, climb=bench.task(measure, one)),
                    cap=_validation_cap(bench, replicas),
                    replicas=replicas,
                    growth=growth,
                )
            except (InputError, SearchError) as error:
                failures.append(f"The largest {kind} was not found: {error}")
                return None

        some = trained.batch_size or trained.cut_short  # where nothing fits, nothing follows
        evaluated = alone(_EVALUATION, measure_evaluation) if evaluation and some else None
        predicted = alone(_PREDICTION, measure_prediction) if prediction and some else None
    of = "stated" if budget_bytes else f"that can be used ({usable.device})"
    stated = f"{(budget_bytes or usable.size_bytes) / 1e6:,.0f} MB {of}"
    return MemoryReport(
        budget_bytes=budget,
        stated=f"{stated}, {margin:.0%} of it left free",
        device=usable.device,
        replicas=replicas,
        cap=f"{cap}, {why}",
        training=trained,
        evaluation=evaluated,
        accumulation=accumulation,
        prediction=predicted,
        held_by_others=others if others > NOTICEABLE else 0,
        allowed_seconds=deadline.seconds,
        more_seconds=max(2 * deadline.seconds, default_seconds(xla=bench.model.jit_compile)),
        unplanned_target=target_batch_size if wanted and some and accumulation is None else None,
        failures=tuple(failures),
    )


@contextlib.contextmanager
def open_prober(
    bench: Bench,
    climb: Climb,
    *,
    usable: UsableMemory,
    budget_bytes: float,
    deadline: Deadline = NO_DEADLINE,
) -> Iterator[Prober]:
    """What runs given batch sizes, each time in a fresh process.

    Args:
        bench: Model and data.
        climb: What is run, made by `bench.task`.
        usable: What a process may use at all.
        budget_bytes: Bytes that it is to use.
        deadline: When no further process is begun.

    Raises:
        InputError: On a CPU without Linux's /proc.
    """
    on_cpu = usable.device == "CPU"  # the process's own memory counts
    if on_cpu and peak_resident() is None:
        raise InputError(
            "The memory that a training takes on a CPU must be read from Linux's "
            "/proc/self/status. Received: a system that does not have it. Measure on Linux, in a "
            "container for instance; `tune` needs it for --memory_budget alone."
        )
    with tempfile.TemporaryDirectory(prefix="tfbatch-") as folder:
        yield Prober(
            bench.own_process(Path(folder) / "probes.log"),
            climb,
            budget_bytes=budget_bytes,
            limit_bytes=_limit(budget_bytes, usable.size_bytes) if on_cpu else float("inf"),
            stall_seconds=bench.stall_seconds,
            stop_requested=bench.stop_requested,
            tell=bench.tell,
            deadline=deadline,
        )


def _cap(bench: Bench, largest: int | None, replicas: int) -> tuple[int, str]:
    """The largest batch that is looked at, a multiple of the replicas, and what sets it."""
    examples = bench.data.splits["train"]
    cap, why = examples, "the number of training examples"
    if largest is not None and largest < examples:
        cap, why = largest, "as asked"
    return cap - cap % replicas if cap > replicas else cap, why


def _validation_cap(bench: Bench, replicas: int) -> int:
    """The same of evaluation and prediction.

    Raises:
        InputError: Fewer validation examples than replicas.
    """
    examples = bench.data.splits["validation"]
    if examples < replicas:
        raise InputError(
            f"The validation split must have an example for each of the {replicas} replicas. "
            f"Received: {examples}. Use more validation examples, or fewer devices."
        )
    return examples - examples % replicas


def _limit(budget: float, usable: int) -> float:
    """Where a process is ended: the further above the budget it is measured, the better."""
    free = _FREE * min(float(psutil.virtual_memory().available), float(usable))
    return max(budget, min(_LIMIT * budget, free))


def _rows(kind: str, process: int, run: ProcessRun) -> Iterator[MemoryRow]:
    peaks = {peak.size: peak.peak_bytes for peak in run.peaks}
    for probe in run.probes():
        known = probe.peak_bytes or peaks.get(probe.batch_size)
        yield {
            "kind": kind,
            "process": process,
            "batch_size": probe.batch_size,
            "outcome": probe.outcome,
            "peak_megabytes": round(known / 1e6) if known else None,
            "process_seconds": round(run.seconds, 1),
        }


def _so_far(kind: str, found: LargestSize, more: str = "") -> str:
    """What was measured before time or processes were used up, and where the limit may lie."""
    fits, fails = found.batch_size, found.smallest_that_failed
    if not fits and fails is None:
        return f"No {kind} was measured: nothing is known of the largest that fits."
    if not fits:
        return (
            f"No {kind} was measured to fit; the smallest that was measured not to fit is {fails}: "
            "the largest that fits is smaller, and not known."
        )
    measured = f"The largest {kind} that was measured to fit is {fits}{more}"
    if fails is None:
        return f"{measured}; none was measured not to fit: the true limit may lie above."
    return (
        f"{measured}; the smallest that was measured not to fit is {fails}: the true limit may lie "
        "between them."
    )


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
    return "unknown" if number is None else f"{number / 1e6:,.0f} MB"
