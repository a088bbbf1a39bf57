"""The largest batch that fits into memory, and what a larger one is predicted to take."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from tfbatch.charts import Chart, Mark, Series
from tfbatch.instruments import Bench
from tfbatch.instruments.memory import search_largest, verify_accumulation
from tfbatch.instruments.memory_report import MemoryReport
from tfbatch.instruments.peak_memory import device_memory, measure_evaluation, measure_training
from tfbatch.instruments.probing import Prober
from tfbatch.training.context import perform

HEADING = "Memory and the largest batch"
ORDER = 10
SHARE = 0.0
_MARGIN = 0.2  # of what can be used; see tfbatch.measuring.memory
_LIMIT = 2.0  # a process is measured up to this many times the budget, then ended
_FREE = 0.9  # but never past this share of what is free


@dataclasses.dataclass(frozen=True)
class LargestBatchReading:
    """The largest of the sizes of interest that fits, verified, and the line beyond it.

    Attributes:
        largest_batch_size: The largest verified one; None where nothing fits.
        limited_by: What a larger one fails on, in words.
        predicted_batch_size: Where the line through the peaks is PREDICTED to meet the budget;
            None where there is no line.
        report: Everything that was run.
    """

    largest_batch_size: int | None
    limited_by: str
    predicted_batch_size: int | None
    report: MemoryReport

    def columns(self) -> tuple[str, ...]:
        """See tfbatch.instruments.Reading."""
        return ("process", "batch size", "outcome", "peak (MB)", "process's seconds")

    def rows(self) -> list[tuple[str, ...]]:
        """See tfbatch.instruments.Reading."""
        return [
            (
                str(row["process"]),
                str(row["batch_size"]),
                str(row["outcome"]),
                "?" if row["peak_megabytes"] is None else f"{row['peak_megabytes']:,}",
                str(row["process_seconds"]),
            )
            for row in self.report.rows()
        ]

    def conclusion(self) -> str:
        """See tfbatch.instruments.Reading."""
        found = self.report.conclusion()
        if self.predicted_batch_size is None or self.limited_by == "memory":
            return found
        return (
            f"{found} Larger ones were not run; the line through the peaks predicts that "
            f"{self.predicted_batch_size:,} would fit."
        )

    def charts(self) -> tuple[Chart, ...]:
        """See tfbatch.instruments.Reading."""
        rows = [row for row in self.report.rows() if row["peak_megabytes"] is not None]
        peaks = sorted({(float(row["batch_size"]), float(row["peak_megabytes"])) for row in rows})
        if not peaks:
            return ()
        sizes, megabytes = zip(*peaks, strict=True)
        budget = self.report.budget_bytes / 1e6
        series = [Series("peak of the process", sizes, megabytes, kind="points")]
        if max(megabytes) > budget / 3:  # else it would press the peaks to the ground
            ends = (sizes[0], sizes[-1])
            series.append(Series("budget", ends, (budget, budget), kind="dashed"))
        marks: tuple[Mark, ...] = ()
        if self.largest_batch_size:
            label = f"largest verified {self.largest_batch_size}"
            marks = (Mark(self.largest_batch_size, label),)
        return (
            Chart(
                HEADING,
                "batch size",
                "megabytes",
                tuple(series),
                marks=marks,
                log_y=False,
                x_ticks=tuple(sorted(set(sizes))),
            ),
        )


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> LargestBatchReading:
    """See tfbatch.instruments.Probe. Runs nothing larger than the largest size of interest."""
    del seconds  # its processes take what they take
    largest = max(batch_sizes)
    report = measure_memory(
        bench, budget_bytes=None, margin=_MARGIN, largest=largest, evaluation=False
    )
    line = report.training.predicted
    predicted = None
    if line is not None and math.isfinite(line.batch_size):
        predicted = int(line.batch_size)
    reached = report.batch_size >= largest - largest % report.replicas
    return LargestBatchReading(
        report.batch_size or None,
        "the largest size of interest" if reached else "memory",
        predicted,
        report,
    )


def measure_memory(
    bench: Bench,
    *,
    budget_bytes: float | None,
    margin: float,
    largest: int | None = None,
    target_batch_size: int | None = None,
    evaluation: bool = True,
) -> MemoryReport:
    """The largest batches on a bench that is open already; see tfbatch.find_max_batch_size."""
    device, usable, replicas = bench.measure(device_memory)
    bench.engine.rest()  # it would hold memory of the device beside what is measured
    budget = (budget_bytes or usable) * (1 - margin)
    with open_prober(bench, device=device, usable=usable, budget_bytes=budget) as prober:
        cap, why = _cap(bench, largest, replicas)
        training = search_largest(prober, cap=cap, replicas=replicas)
        accumulation = None
        if target_batch_size and 0 < training.batch_size < target_batch_size:
            accumulation = verify_accumulation(
                lambda steps: dataclasses.replace(
                    prober, arguments=(*prober.arguments[:-1], steps)
                ),
                target_batch_size,
                largest=training.batch_size,
                replicas=replicas,
            )
        evaluated = None
        if evaluation and training.batch_size:
            examples = bench.data.splits["validation"]
            evaluated = search_largest(
                dataclasses.replace(
                    prober,
                    arguments=(None, measure_evaluation, bench.configuration(1)),
                ),
                cap=examples - examples % replicas,
                replicas=replicas,
            )
    of = "stated" if budget_bytes else f"that can be used ({device})"
    return MemoryReport(
        budget_bytes=budget,
        stated=f"{(budget_bytes or usable) / 1e6:,.0f} MB {of}, {margin:.0%} of it left free",
        device=device,
        replicas=replicas,
        cap=f"{cap}, {why}",
        training=training,
        evaluation=evaluated,
        accumulation=accumulation,
    )


@contextlib.contextmanager
def open_prober(bench: Bench, *, device: str, usable: int, budget_bytes: float) -> Iterator[Prober]:
    """What runs training at given batch sizes, each time in a fresh process.

    Args:
        bench: Model and data.
        device: "CPU" if the process's own memory counts.
        usable: Bytes that a process may use at all.
        budget_bytes: Bytes that it is to use.
    """
    with tempfile.TemporaryDirectory(prefix="tfbatch-") as folder:
        yield Prober(
            bench.own_process(Path(folder) / "probes.log"),
            perform,
            (None, measure_training, bench.configuration(1), 1),
            budget_bytes=budget_bytes,
            limit_bytes=_limit(budget_bytes, usable) if device == "CPU" else float("inf"),
            stall_seconds=bench.request.execution.stall_minutes * 60,
            stop_requested=bench.engine.stop_requested,
            tell=bench.tell,
        )


def _cap(bench: Bench, largest: int | None, replicas: int) -> tuple[int, str]:
    """The largest batch that is looked at, a multiple of the replicas, and what sets it."""
    examples = bench.data.splits["train"]
    cap, why = examples, "the number of training examples"
    if largest is not None and largest < examples:
        cap, why = largest, "as asked"
    return cap - cap % replicas if cap > replicas else cap, why


def _limit(budget: float, usable: int) -> float:
    """Where a process is ended: the further above the budget it is measured, the better."""
    free = _FREE * min(float(psutil.virtual_memory().available), float(usable))
    return max(budget, min(_LIMIT * budget, free))
