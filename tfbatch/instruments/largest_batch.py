"""The largest batch that fits into memory, and what a larger one is predicted to take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import keras
from typing_extensions import Unpack

from tfbatch.bench import Bench
from tfbatch.charts import Chart, Mark, Series
from tfbatch.errors import InputError
from tfbatch.instruments.open_bench import BenchOptions, open_bench
from tfbatch.largest_batch.measurement import MemoryReport, measure_memory
from tfbatch.quantities import bytes_of
from tfbatch.request.execution import AUTOMATIC, Execution, JitCompile
from tfbatch.search.progress import progress_lines

HEADING = "Memory and the largest batch"
ORDER = 10
SHARE = 0.0
TIME = "the time of its search"
"""What limits an answer that was cut short."""
PROCESSES = "the number of its processes"
"""What limits an answer whose search had used them up before it knew of a limit."""
MARGIN = 0.2
"""Part of the usable memory that is left free where no budget is stated."""


def find_max_batch_size(
    build_model: Callable[..., keras.Model] | str,
    data: object,
    *,
    memory_budget: float | str | None = None,
    memory_seconds: float | None = None,
    safety_margin: float | None = None,
    largest: int | None = None,
    target_batch_size: int | None = None,
    evaluation: bool = True,
    prediction: bool = False,
    precision: str = "float32",
    jit_compile: JitCompile = "auto",
    data_on: str = AUTOMATIC,
    strategy: str | None = None,
    logical_cpus: int = 0,
    stall_minutes: float = 10.0,
    verbose: int = 1,
    **options: Unpack[BenchOptions],
) -> MemoryReport:
    """Finds the largest batch that a training fits into memory with, by running it.

    Each size is trained for five full steps on the data's own stream, with the real optimizer, and
    validated, in a fresh process: this one never runs out of memory, and its objects are left
    alone. What counts is the process's peak resident set (VmHWM) on a CPU, model, data and Python
    included, and the allocator's peak on a GPU. Inputs of variable length are padded to the longest
    of the data.

    Example:
        ```python
        report = tfbatch.find_max_batch_size("small_cnn", "digits", memory_budget="1 GB")
        print(report.batch_size, report.conclusion())
        ```

    Args:
        build_model: See find_batch_size.
        data: The data, see find_batch_size.
        memory_budget: Bytes that a training process may use, or a text such as "1.5 GB" or
            "800 MiB". Default: what this process may use (its control group's limit, or the
            machine's memory), or the GPU's memory.
        memory_seconds: Seconds after which no further process is begun, and one that runs is ended:
            the report is then of what was measured, and says so (`cut_short`). Infinite for no
            limit. Default: on a GPU 60, or 150 where XLA compiles the model; on a CPU none.
        safety_margin: Share of the budget that is left free. Default: 0.2 where no budget is
            stated, else 0.
        largest: Largest batch of interest. Default: the number of training examples.
        target_batch_size: A desired batch size: where it is not found to fit, the micro-batch and
            number of accumulation steps that make it are found and run too, or one slightly
            smaller where there are no more examples. At most the number of training examples.
        evaluation: Whether the largest evaluation batch is searched too.
        prediction: Whether that of `Model.predict` is, too.
        precision: Keras's dtype policy.
        jit_compile: Whether XLA compiles the model; "auto" chooses as Keras does: with a GPU, where
            every layer supports it.
        data_on: Where batches are made of the examples, see find_batch_size: data in the device's
            memory is part of what a training takes.
        strategy: "mirrored" to train on all devices at once; batch sizes are global ones.
        logical_cpus: Logical devices to split the CPU into, to try a strategy without GPUs.
        stall_minutes: A process that gives no heartbeat for this long is ended.
        verbose: 0 prints nothing.
        **options: Of model and data, see open_bench: optimizer, baseline, loss, metrics,
            class_weight, model_arguments, data_dir, image_size, records_dir.

    Returns:
        The sizes with every process's peak. `batch_size` is 0 where nothing fits, or where
            nothing was seen to fit in the time (`training.cut_short`).

    Raises:
        InputError: Something asked for cannot be used; a CPU without Linux's /proc; or the model
            fails in training for a reason other than memory, shown with its traceback. Where
            evaluation or prediction fails, the report says why (`failures`).
        DataError: Data absent or damaged.
    """
    budget = bytes_of(memory_budget)
    margin = _margin(safety_margin, stated=budget is not None)
    for name, value in (("largest", largest), ("target_batch_size", target_batch_size)):
        if value is not None and not (float(value).is_integer() and value >= 1):
            raise InputError(f"`{name}` must be a whole number >= 1. Received: {value}.")
    progress = progress_lines(verbose)
    with open_bench(
        build_model,
        data,
        execution=Execution(
            workers=None if strategy else 1,
            precision=precision,
            jit_compile=jit_compile,
            data_on=data_on,
            strategy=strategy,
            logical_cpus=logical_cpus,
            memory_seconds=memory_seconds,
            stall_minutes=stall_minutes,
        ),
        progress=progress,
        **options,
    ) as bench:
        report = measure_memory(
            bench,
            budget_bytes=budget,
            margin=margin,
            largest=None if largest is None else int(largest),
            target_batch_size=None if target_batch_size is None else int(target_batch_size),
            evaluation=evaluation,
            prediction=prediction,
        )
    progress.say(str(report))
    return report


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> LargestBatchReading:
    """See tfbatch.instruments.Instrument. Runs nothing larger than the largest size of interest."""
    del seconds  # its processes have a time of their own, `bench.memory_seconds`
    largest = max(batch_sizes)
    report = measure_memory(
        bench, budget_bytes=None, margin=MARGIN, largest=largest, evaluation=False
    )
    line = report.training.predicted
    predicted = None
    if line is not None and line.interval.bounded:  # else memory was not shown to grow
        predicted = line.batch_size
    return LargestBatchReading(
        report.batch_size or None,
        _limited_by(report, largest),
        predicted,
        report,
        report.training.smallest_that_failed,
    )


def _limited_by(report: MemoryReport, largest: int) -> str:
    if report.training.cut_short:
        return TIME
    if not report.training.settled:
        return PROCESSES
    reached = report.batch_size >= largest - largest % report.replicas
    return "the largest size of interest" if reached else "memory"


@dataclasses.dataclass(frozen=True)
class LargestBatchReading:
    """The largest of the sizes of interest that fits, verified, and the line beyond it.

    Attributes:
        largest_batch_size: The largest one that fits; None where nothing does. Where `limited_by`
            is `TIME` or `PROCESSES`: the largest that was measured to fit, or None.
        limited_by: What a larger one fails on, in words; `TIME` or `PROCESSES` where larger ones
            may fit.
        predicted_batch_size: Where the line through the peaks is PREDICTED to meet the budget;
            None where there is no line, or memory was not shown to grow.
        report: Everything that was run.
        smallest_that_failed: The smallest that was run and does not fit, or None.
    """

    largest_batch_size: int | None
    limited_by: str
    predicted_batch_size: int | None
    report: MemoryReport
    smallest_that_failed: int | None = None

    @property
    def largest_possible(self) -> float:
        """No larger size fits, as far as was measured; infinite where that is not known."""
        if self.limited_by == "memory" and self.largest_batch_size:
            return self.largest_batch_size
        return math.inf if self.smallest_that_failed is None else self.smallest_that_failed - 1

    @property
    def settled(self) -> bool:
        """Whether the search knew where the limit lies before its time or processes were over."""
        return self.limited_by not in (TIME, PROCESSES)

    def of_hardware(self) -> str:
        """A part of a sentence on the hardware."""
        largest, failed = self.largest_batch_size, self.smallest_that_failed
        if not self.settled:
            fits = f"a batch of {largest} fits" if largest else "no batch was measured to fit"
            fails = f", one of {failed} does not" if failed else ""
            over = "the time was over" if self.limited_by == TIME else "its processes were used up"
            return f"{fits}{fails} ({over}: the largest that fits is not known)"
        if not largest:
            return "nothing fits into memory"
        how = "verified" if self.report.training.verified else "not verified by itself"
        return f"the largest batch that fits is {largest} ({how}; limited by {self.limited_by})"

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
        if self.predicted_batch_size is None or self.limited_by == "memory" or not self.settled:
            return found
        return (
            f"{found} Larger ones were not run; the line through the peaks predicts that "
            f"{self.predicted_batch_size:,} would fit."
        )

    def charts(self) -> tuple[Chart, ...]:
        """See tfbatch.instruments.Reading."""
        peaks = sorted(
            {
                (float(row["batch_size"]), float(peak))
                for row in self.report.rows()
                if (peak := row["peak_megabytes"]) is not None
            }
        )
        if not peaks:
            return ()
        sizes = tuple(size for size, _ in peaks)
        megabytes = tuple(peak for _, peak in peaks)
        budget = self.report.budget_bytes / 1e6
        series = [Series("peak of the process", sizes, megabytes, kind="points")]
        if max(megabytes) > budget / 3:  # else it would press the peaks to the ground
            ends = (sizes[0], sizes[-1])
            series.append(Series("budget", ends, (budget, budget), kind="dashed"))
        marks: tuple[Mark, ...] = ()
        if self.largest_batch_size:
            verified = self.settled and self.report.training.verified
            seen = "verified" if verified else "measured to fit"
            label = f"largest {seen} {self.largest_batch_size}"
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


def _margin(margin: float | None, *, stated: bool) -> float:
    if margin is None:
        return 0.0 if stated else MARGIN
    if not 0 <= margin < 1:
        raise InputError(f"`safety_margin` must be at least 0 and below 1. Received: {margin}.")
    return margin
