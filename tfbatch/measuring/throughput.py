"""`tfbatch.measure_throughput(...)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from tfbatch.bench import BenchOptions, open_bench
from tfbatch.errors import InputError
from tfbatch.request.execution import Execution
from tfbatch.search.progress import Progress

if TYPE_CHECKING:
    from tfbatch.instruments.input_bound import InputBound
    from tfbatch.instruments.throughput import Throughput


@dataclasses.dataclass(frozen=True)
class ThroughputReport:
    """Step times, the knee, and what holds the training up.

    Attributes:
        throughput: Seconds of a step by batch size, the fitted line, the knee.
        input_bound: Pipeline and model apart; None if it was not asked for.
    """

    throughput: Throughput
    input_bound: InputBound | None

    @property
    def knee(self) -> int:
        """Smallest measured batch size with 90 % of the best throughput."""
        return self.throughput.knee.batch_size

    def __str__(self) -> str:
        """The conclusions."""
        bound = [self.input_bound.conclusion()] if self.input_bound else []
        return "\n".join([self.throughput.conclusion(), *bound])


def measure_throughput(
    build_model: Callable[..., Any] | str,
    data: Any,
    *,
    batch_sizes: Sequence[int] | None = None,
    alignment: bool = False,
    input_bound: bool = True,
    max_seconds: float = 120.0,
    precision: str = "float32",
    jit_compile: bool = False,
    strategy: str | None = None,
    logical_cpus: int = 0,
    workers: int | None = None,
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
            two from 8 to 1024, at most an eighth of them.
        alignment: Whether their neighbors are measured too: odd sizes and multiples of 8, 10 and
            32 beside powers of two. `throughput.residual(size)` is what they miss the line by.
        input_bound: Whether the pipeline alone and the model alone are timed as well.
        max_seconds: About what the measurements may take in all; the largest sizes are left out
            where that is short.
        precision: Keras's dtype policy.
        jit_compile: Whether XLA compiles the model.
        strategy: "mirrored" to train on all devices at once; batch sizes are global ones.
        logical_cpus: Logical devices to split the CPU into, to try a strategy without GPUs.
        workers: 0 to measure in this process, where a profiler sees it.
        verbose: 0 prints nothing.
        **options: See tfbatch.bench.open_bench: optimizer, baseline, loss, metrics, class_weight,
            model_arguments, data_dir, image_size, records_dir.

    Raises:
        InputError: Something asked for cannot be used.
        DataError: Data absent or damaged.
    """
    asked = None if batch_sizes is None else _checked(batch_sizes)
    if not max_seconds > 0:
        raise InputError(f"`max_seconds` must be > 0. Received: {max_seconds}.")
    from rich.console import Console

    from tfbatch.instruments.input_bound import measure_input_bound
    from tfbatch.instruments.throughput import measure_throughput_of, with_odd_sizes
    from tfbatch.search.space import SearchSpace

    progress = Progress(Console() if verbose else None)
    execution = Execution(
        workers=workers if workers is not None or strategy else 1,
        precision=precision,
        jit_compile=jit_compile,
        strategy=strategy,
        logical_cpus=logical_cpus,
    )
    with open_bench(
        build_model,
        data,
        execution=execution,
        progress=progress,
        **options,
    ) as bench:
        examples = bench.data.splits["train"]
        space = bench.request.search.space
        sizes = asked or SearchSpace(space, num_examples=examples).batch_sizes
        if sizes[-1] > examples:
            raise InputError(
                f"`batch_sizes` must not exceed the {examples} training examples. "
                f"Received: {sizes[-1]}."
            )
        more = with_odd_sizes(sizes) if alignment else sizes
        timed = [bench.configuration(size) for size in more if size <= examples]
        share = 0.5 if input_bound else 1.0
        throughput = bench.measure(measure_throughput_of, timed, share * max_seconds)
        bound = None
        if input_bound:
            configurations = [bench.configuration(size) for size in sizes]
            bound = bench.measure(measure_input_bound, configurations, share * max_seconds)
    report = ThroughputReport(throughput, bound)
    progress.say(str(report))
    return report


def _checked(batch_sizes: Sequence[int]) -> list[int]:
    sizes = sorted(set(batch_sizes))
    if not sizes or sizes[0] < 1:
        raise InputError(
            f"`batch_sizes` must hold whole numbers >= 1. Received: {list(batch_sizes)}."
        )
    return sizes
