"""Step time against batch size, and the knee of the throughput.

Steps are timed by tfbatch.training.step_times, which `tune` ranks batch sizes in seconds with.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import keras
from typing_extensions import Unpack

from tfbatch.bench import Bench
from tfbatch.charts import Chart, Mark, Series
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, SearchError
from tfbatch.estimators.knee import NEAR_THE_BEST, Knee, find_knee
from tfbatch.estimators.step_time import FEWEST_SIZES, StepTimeFit, fit_step_time
from tfbatch.instruments.input_bound import InputBoundReading, measure_input_bound
from tfbatch.instruments.open_bench import BenchOptions, open_bench
from tfbatch.request.execution import AUTOMATIC, Execution, JitCompile
from tfbatch.request.search_config import BatchSizeGrid
from tfbatch.search.progress import progress_lines
from tfbatch.training.context import TaskContext
from tfbatch.training.precision_comparison import PrecisionComparison, compare_precision
from tfbatch.training.step_times import ROUNDS, StepTime, measure_step_times
from tfbatch.training.xla_comparison import XlaComparison, compare_xla

Compared = TypeVar("Compared")
HEADING = "Step time and the knee of the throughput"
ORDER = 20
SHARE = 3.0
_CURVE_POINTS = 60
_XLA_SHARE = 0.2
_PRECISION_SHARE = 0.2
_ALIGNED = (32, 10, 8)
"""Multiples that are told apart, the first that fits."""


def measure_throughput(
    build_model: Callable[..., keras.Model] | str,
    data: object,
    *,
    batch_sizes: Sequence[int] | None = None,
    alignment: bool = False,
    input_bound: bool = True,
    xla: bool | None = None,
    mixed_precision: bool | None = None,
    max_seconds: float = 120.0,
    precision: str = "float32",
    jit_compile: JitCompile = "auto",
    strategy: str | None = None,
    logical_cpus: int = 0,
    workers: int | None = None,
    data_on: str = AUTOMATIC,
    verbose: int = 1,
    **options: Unpack[BenchOptions],
) -> ThroughputReport:
    """Times training steps at several batch sizes, and pipeline and model apart.

    Steps are those of a training on the data's own stream, with the real optimizer, in interleaved
    rounds, warm-up left out. `t = a + b * batch size` is fitted, and used only where it fits.

    Example:
        ```python
        report = tfbatch.measure_throughput("small_cnn", "digits", batch_sizes=[16, 32, 64, 128])
        print(report.knee, report.throughput.fit)
        ```

    Args:
        build_model: See find_batch_size.
        data: The data, see find_batch_size.
        batch_sizes: Sizes to measure, at most the number of training examples. Default: powers of
            two from 8 to 1024, at most an eighth of them; on a GPU up to all of them, as far as
            memory reaches.
        alignment: Whether their neighbors are measured too: odd sizes and multiples of 8, 10 and
            32 beside powers of two. `throughput.residual(size)` is what they miss the line by.
        input_bound: Whether the pipeline alone and the model alone are timed as well.
        xla: Whether steps with XLA and without are compared at the knee. Default: on a GPU.
        mixed_precision: Whether steps with float32 are compared with those of a mixed policy at
            the knee and at the largest measured size: the one in `precision` or, where that is
            float32, the device's: mixed_float16 on a GPU, mixed_bfloat16 elsewhere. Default:
            without a strategy.
        max_seconds: About what the measured steps may take in all; where that is short, sizes
            between the ends are left out. Tracing, and XLA's compilation for each size, are priced
            and come on top.
        precision: Keras's dtype policy.
        jit_compile: Whether XLA compiles the model; "auto" chooses as Keras does: with a GPU, where
            every layer supports it.
        strategy: "mirrored" to train on all devices at once; batch sizes are global ones.
        logical_cpus: Logical devices to split the CPU into, to try a strategy without GPUs.
        workers: 0 to measure in this process, where a profiler sees it.
        data_on: Where batches are made of the examples, see find_batch_size.
        verbose: 0 prints nothing.
        **options: Of model and data, see open_bench: optimizer, baseline, loss, metrics,
            class_weight, model_arguments, data_dir, image_size, records_dir.

    Raises:
        InputError: Something asked for cannot be used.
        DataError: Data absent or damaged.
    """
    asked = None if batch_sizes is None else _checked(batch_sizes)
    if not max_seconds > 0:
        raise InputError(f"`max_seconds` must be > 0. Received: {max_seconds}.")
    progress = progress_lines(verbose)
    execution = Execution(
        workers=workers if workers is not None or strategy else 1,
        precision=precision,
        jit_compile=jit_compile,
        strategy=strategy,
        logical_cpus=logical_cpus,
        data_on=data_on,
    )
    with open_bench(
        build_model,
        data,
        execution=execution,
        progress=progress,
        **options,
    ) as bench:
        examples = bench.data.splits["train"]
        sizes = asked or sizes_of_interest(examples, on_gpu=bench.devices.kind != "CPU")
        if sizes[-1] > examples:
            raise InputError(
                f"`batch_sizes` must not exceed the {examples} training examples. "
                f"Received: {sizes[-1]}."
            )
        more = with_odd_sizes(sizes) if alignment else sizes
        timed = [bench.configuration(size) for size in more if size <= examples]
        share = 0.5 if input_bound else 1.0
        throughput = _measured(bench, timed, share * max_seconds, xla, mixed_precision)
        bound: InputBoundReading | None = None
        failures: list[str] = []
        if input_bound:
            configurations = [bench.configuration(size) for size in sizes]
            fitting = [c for c in configurations if c.batch_size not in throughput.too_large]
            bound = _or_failure(
                lambda: bench.measure(measure_input_bound, fitting, share * max_seconds),
                "Pipeline and model were not timed apart",
                failures,
            )
    report = ThroughputReport(throughput, bound, "".join(failures))
    progress.say(str(report))
    return report


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> ThroughputReading:
    """See tfbatch.instruments.Instrument."""
    configurations = [bench.configuration(size) for size in batch_sizes]
    return _measured(bench, configurations, seconds)


def _measured(
    bench: Bench,
    configurations: Sequence[Configuration],
    seconds: float,
    xla: bool | None = None,
    mixed_precision: bool | None = None,
) -> ThroughputReading:
    """Step times, and at the knee what XLA and a mixed policy change, where a device may gain."""
    wanted = [bench.baseline.batch_size]  # predictions are relative to it
    alone = bench.devices.replicas == 1
    xla = alone and bench.devices.kind != "CPU" if xla is None else xla
    mixed_precision = alone if mixed_precision is None else mixed_precision
    of_xla = _XLA_SHARE * seconds if xla else 0.0
    of_precision = _PRECISION_SHARE * seconds if mixed_precision else 0.0
    aside = (_XLA_SHARE if xla else 0.0) + (_PRECISION_SHARE if mixed_precision else 0.0)
    left = (1 - aside) * seconds  # no difference of seconds: of no limit it is not a number
    found = bench.measure(measure_throughput_of, configurations, left, wanted)
    by_size = {one.batch_size: one for one in configurations}
    knee = found.knee.batch_size
    failures: list[str] = []
    if xla:
        compared = _or_failure(
            lambda: bench.measure(compare_xla, by_size[knee], of_xla),
            "Steps with XLA and without were not compared",
            failures,
        )
        found = dataclasses.replace(found, xla=compared)
    if mixed_precision:
        precision = _or_failure(
            lambda: bench.measure(
                compare_precision,
                [by_size[size] for size in sorted({knee, found.batch_sizes[-1]})],
                {time.batch_size: time.seconds for time in found.step_times},
                of_precision,
            ),
            "Mixed precision was not compared",
            failures,
        )
        found = dataclasses.replace(found, precision=precision)
    return dataclasses.replace(found, failures=tuple(failures))


def _or_failure(
    measure: Callable[[], Compared], undone: str, failures: list[str]
) -> Compared | None:
    """What comes after the step times: where its process dies of it, these must not be lost."""
    try:
        return measure()
    except SearchError as error:
        failures.append(f"{undone}: {error}")
        return None


@dataclasses.dataclass(frozen=True)
class ThroughputReport:
    """Step times, the knee, and what holds the training up.

    Attributes:
        throughput: Seconds of a step by batch size, the fitted line, the knee.
        input_bound: Pipeline and model apart; None if it was not asked for, or failed.
        failure: Why it failed, a sentence; empty where it did not.
    """

    throughput: ThroughputReading
    input_bound: InputBoundReading | None
    failure: str = ""

    @property
    def knee(self) -> int:
        """Smallest measured batch size with 90 % of the best throughput.

        No knee where `throughput.knee.edge` says that it is an end of what was measured.
        """
        return self.throughput.knee.batch_size

    def __str__(self) -> str:
        """The conclusions."""
        bound = self.input_bound.conclusion() if self.input_bound else self.failure
        return "\n".join([self.throughput.conclusion(), *filter(None, [bound])])


@dataclasses.dataclass(frozen=True)
class ThroughputReading:
    """Seconds of a step, input included, each batch size alone on the device.

    Attributes:
        step_times: What was measured, ascending.
        fit: A line, or a line behind a floor, through the medians; None for a single size. Only
            where it `fits` is it drawn, and anything computed from it.
        knee: Smallest measured batch size with 90 % of the best throughput.
        left_out: Batch sizes that the time did not allow for.
        too_large: Batch sizes that ran out of memory, or are larger than one that did.
        xla: Steps with XLA and without at the knee; None if that was not asked for, or failed.
        precision: Steps with a mixed policy and with float32 at the knee and at the largest
            measured size; None if that was not asked for, or failed.
        failures: Why a comparison failed as a whole, a sentence for each that did.
    """

    step_times: tuple[StepTime, ...]
    fit: StepTimeFit | None
    knee: Knee
    left_out: tuple[int, ...] = ()
    too_large: tuple[int, ...] = ()
    xla: XlaComparison | None = None
    precision: PrecisionComparison | None = None
    failures: tuple[str, ...] = ()

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The measured sizes, ascending."""
        return tuple(time.batch_size for time in self.step_times)

    def seconds(self, batch_size: int) -> float:
        """Median seconds of a step of a measured size.

        Raises:
            InputError: It was not measured.
        """
        for time in self.step_times:
            if time.batch_size == batch_size:
                return time.seconds
        raise InputError(
            f"`batch_size` must be a measured one: {_listed(self.batch_sizes)}. "
            f"Received: {batch_size}."
        )

    def residual(self, batch_size: int) -> float | None:
        """Share by which a step takes longer than the fitted form says; None for few sizes."""
        if self.fit is None or len(self.step_times) < FEWEST_SIZES:
            return None
        return self.seconds(batch_size) / self.fit.seconds(batch_size) - 1

    def columns(self) -> tuple[str, ...]:
        """See tfbatch.instruments.Reading."""
        return (
            "batch size",
            "kind",
            "step (ms)",
            "rounds (ms)",
            "examples/s",
            "of best",
            "off the fit",
            "compiled once (s)",
        )

    def rows(self) -> list[tuple[str, ...]]:
        """See tfbatch.instruments.Reading."""
        best = max(self.knee.throughput)
        rows: list[tuple[str, ...]] = []
        for time, throughput in zip(self.step_times, self.knee.throughput, strict=True):
            low, high = (1e3 * end(time.rounds) for end in (min, max))
            residual = self.residual(time.batch_size)
            rows.append(
                (
                    str(time.batch_size),
                    alignment_of(time.batch_size),
                    f"{1e3 * time.seconds:.4g}",
                    f"{low:.4g} to {high:.4g}",
                    f"{throughput:,.0f}",
                    f"{throughput / best:.0%}",
                    "" if residual is None else f"{residual:+.1%}",
                    f"{time.compilation:.3g}",
                )
            )
        return rows

    def conclusion(self) -> str:
        """See tfbatch.instruments.Reading."""
        missing = f"; too large for the memory: {_listed(self.too_large)}" if self.too_large else ""
        compared = [one.conclusion() for one in (self.xla, self.precision) if one]
        steps = f"{self._throughput()}; {self._formula()}{missing}{self._left_out()}."
        return " ".join([steps, *compared, *self.failures])

    @property
    def has_knee(self) -> bool:
        """Whether the knee lies inside of what was measured."""
        return self.knee.edge is None

    def of_knee(self) -> str:
        """The knee in a few words, or why there is none."""
        knee, sizes = self.knee, self.batch_sizes
        if knee.edge == "largest":
            return (
                f"the throughput has no knee up to the largest measured batch size, {sizes[-1]}: "
                "larger ones may be faster still"
            )
        if knee.edge == "smallest":
            return (
                f"the throughput has no knee from batch size {sizes[0]} on, the smallest measured: "
                f"it is within {1 - NEAR_THE_BEST:.0%} of its best there already"
            )
        more = ", the largest measured being the fastest" if knee.open_ended else ""
        if gap := self._gap_below_the_knee():
            more += f", {gap}"
        return f"the throughput's knee is batch size {knee.batch_size} {knee.interval}{more}"

    def _gap_below_the_knee(self) -> str:
        """Says that the knee may be smaller, where sizes just below it were not measured."""
        knee = self.knee.batch_size
        below = max((size for size in self.batch_sizes if size < knee), default=0)
        if not any(below < size < knee for size in self.left_out):
            return ""
        return f"or smaller: between {below} and {knee} nothing was measured"

    def _throughput(self) -> str:
        knee = self.knee
        best = f"{max(knee.throughput):,.0f} examples/s"
        if not self.has_knee:
            of_knee = self.of_knee()
            return f"{of_knee[0].upper()}{of_knee[1:]}; the best measured throughput is {best}"
        open_ended = (
            ", and the largest measured size is the fastest: larger ones may be faster still"
            if knee.open_ended
            else ""
        )
        gap = self._gap_below_the_knee()
        more = f"{open_ended}{', ' if gap else ''}{gap}"
        return (
            f"From batch size {knee.batch_size} {knee.interval} on the device has "
            f"{NEAR_THE_BEST:.0%} of its best measured throughput ({best}){more}"
        )

    def _left_out(self) -> str:
        """Which sizes were not measured for want of time, between others and above all."""
        largest = self.batch_sizes[-1]
        between = [size for size in self.left_out if size < largest]
        above = [size for size in self.left_out if size > largest]
        found = f"; not measured for want of time, between others: {_listed(between)}"
        slow = f"; too slow to measure in the time, steps alone: {_listed(above)}"
        return f"{found if between else ''}{slow if above else ''}"

    def _formula(self) -> str:
        if self.fit is None:
            return "one size alone gives no line"
        if self.fit.fits:
            return f"a step takes {self.fit}"
        if len(self.step_times) < FEWEST_SIZES:
            return f"fewer than {FEWEST_SIZES} sizes give no line"
        return f"no line or floor fits the steps' times (one misses by {self.fit.misfit:.0%})"

    def charts(self) -> tuple[Chart, ...]:
        """See tfbatch.instruments.Reading."""
        return (self._throughput_chart(), self._step_time_chart())

    def _throughput_chart(self) -> Chart:
        sizes = self.batch_sizes
        measured = Series(
            "measured",
            sizes,
            self.knee.throughput,
            low=tuple(time.batch_size / max(time.rounds) for time in self.step_times),
            high=tuple(time.batch_size / min(time.rounds) for time in self.step_times),
        )
        curve = self._curve(lambda size, seconds: size / seconds)
        return Chart(
            "Throughput",
            "batch size",
            "examples per second",
            (measured, *curve),
            marks=(Mark(self.knee.batch_size, f"knee {self.knee.batch_size}"),)
            if self.has_knee
            else (),
            log_y=False,
            x_ticks=sizes,
        )

    def _step_time_chart(self) -> Chart:
        measured = Series(
            "measured",
            self.batch_sizes,
            tuple(1e3 * time.seconds for time in self.step_times),
            low=tuple(1e3 * min(time.rounds) for time in self.step_times),
            high=tuple(1e3 * max(time.rounds) for time in self.step_times),
            kind="points",
        )
        curve = self._curve(lambda size, seconds: 1e3 * seconds)
        return Chart(
            "Step time",
            "batch size",
            "milliseconds per step",
            (measured, *curve),
            x_ticks=self.batch_sizes,
        )

    def _curve(self, of: Callable[[float, float], float]) -> tuple[Series, ...]:
        """The fitted form where it fits, else nothing."""
        fit = self.fit
        if fit is None or not fit.fits:
            return ()
        low, high = math.log(self.batch_sizes[0]), math.log(self.batch_sizes[-1])
        points = range(_CURVE_POINTS)
        x = tuple(math.exp(low + (high - low) * i / (_CURVE_POINTS - 1)) for i in points)
        y = tuple(of(size, fit.seconds(size)) for size in x)
        name = f"fitted, misses at most {fit.misfit:.1%}"
        return (Series(name, x, y, kind="dashed"),)


def measure_throughput_of(
    task: TaskContext,
    configurations: Sequence[Configuration],
    seconds: float = math.inf,
    wanted: Sequence[int] = (),
) -> ThroughputReading:
    """Times the steps of each configuration in the process that trains.

    Args:
        task: Model and data.
        configurations: What to measure, at most one for each batch size.
        seconds: About what it may take; see tfbatch.interleaved_rounds.
        wanted: Batch sizes that the others may not take the time from.
    """
    found = measure_step_times(
        task.programs,
        sorted(configurations, key=lambda one: one.batch_size),
        heartbeat=task.heartbeat,
        rounds=ROUNDS,
        seconds=seconds,
        wanted=wanted,
    )
    return throughput_from(found.times, left_out=found.left_out, too_large=found.too_large)


def throughput_from(
    step_times: Sequence[StepTime],
    *,
    left_out: Sequence[int] = (),
    too_large: Sequence[int] = (),
) -> ThroughputReading:
    """Line and knee of measured step times.

    Args:
        step_times: At least one, with the same number of rounds each.
        left_out: Batch sizes that the time did not allow for.
        too_large: Batch sizes that the memory did not allow for.

    Raises:
        InputError: No step time.
    """
    times = sorted(step_times, key=lambda time: time.batch_size)
    sizes = [time.batch_size for time in times]
    rounds = list(zip(*(time.rounds for time in times), strict=True))
    fit = fit_step_time(sizes, [time.seconds for time in times]) if len(times) > 1 else None
    knee = find_knee(sizes, rounds)
    return ThroughputReading(tuple(times), fit, knee, tuple(left_out), tuple(too_large))


def sizes_of_interest(num_examples: int, *, on_gpu: bool) -> list[int]:
    """The batch sizes that are measured where none are named.

    A GPU may be no slower for thousands of examples than for eight: there the powers of two reach
    as far as the data, and measurements end where the memory does. On a CPU they are a search's.

    Args:
        num_examples: Size of the training split.
        on_gpu: Whether a GPU trains.
    """
    grid = BatchSizeGrid()
    if not on_gpu:
        return grid.sizes(num_examples)
    powers = [grid.min << k for k in range(num_examples.bit_length())]
    return [size for size in powers if size <= num_examples] or grid.sizes(num_examples)


def _checked(batch_sizes: Sequence[int]) -> list[int]:
    """Ascending, each once, as Python's own whole numbers: NumPy's may lack their methods."""
    asked = list(batch_sizes)
    if not asked or not all(float(size).is_integer() and size >= 1 for size in asked):
        raise InputError(f"`batch_sizes` must hold whole numbers >= 1. Received: {asked}.")
    return sorted({int(size) for size in asked})


def with_odd_sizes(batch_sizes: Iterable[int]) -> list[int]:
    """Batch sizes with neighbors that are multiples of 32, 8 and 10, and odd ones, ascending.

        for size in (64, 128): 60, 63, 64, 65, 72, 96, 120, 127, 128, 129, 136, 192

    Kernels may be tuned for multiples of 8, as tensor cores want them (16-bit matrices), or for
    powers of two; a line through all sizes shows what that is worth here.

    Args:
        batch_sizes: Powers of two, or others.
    """
    found: set[int] = set()
    for size in batch_sizes:
        found |= {size, size - 1, size + 1, size + 8, size * 3 // 2, size // 10 * 10}
    return sorted(size for size in found if size >= 1)


def alignment_of(batch_size: int) -> str:
    """What a batch size is: "2^6", "32 * 3", "10 * 7", "8 * 9", "even" or "odd"."""
    if batch_size & (batch_size - 1) == 0:
        return f"2^{batch_size.bit_length() - 1}"
    for divisor in _ALIGNED:
        if batch_size % divisor == 0:
            return f"{divisor} * {batch_size // divisor}"
    return "odd" if batch_size % 2 else "even"


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))
