"""Whether the input pipeline or the model holds a training up, at each batch size."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import tensorflow as tf

from tfbatch.bench import Bench
from tfbatch.charts import Chart, Series
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.interleaved_rounds import (
    FEWEST_ROUNDS,
    Paced,
    TimeSteps,
    first_visit,
    measure_in_rounds,
)
from tfbatch.training.context import TaskContext
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.step_times import (
    StepTime,
    dropped_after_an_error,
    step_time_of,
    steps_at_once,
    stream,
    time_training,
)

HEADING = "Input-bound or compute-bound"
ORDER = 30
SHARE = 2.0
NOTICEABLE = 0.1
"""Times that differ by less than this share are called equal."""
_MOST_SIZES = 4

Verdict = Literal["input-bound", "balanced", "compute-bound"]


@dataclasses.dataclass(frozen=True)
class InputShare:
    """Seconds a step of one batch size.

    Attributes:
        batch_size: Examples in the step.
        pipeline: The training stream alone: nothing is trained. Of batches that are made on the
            device, within the step, what the step takes more than the model alone.
        model: The training alone, on one batch that is in memory.
        together: Training on the stream.
    """

    batch_size: int
    pipeline: StepTime
    model: StepTime
    together: StepTime

    @property
    def verdict(self) -> Verdict:
        """Which of the two alone is slower.

        ratio = pipeline seconds / model seconds
        "input-bound" if ratio > 1.1, "compute-bound" if ratio < 1 / 1.1, else "balanced"
        """
        ratio = self.pipeline.seconds / self.model.seconds
        if ratio > 1 + NOTICEABLE:
            return "input-bound"
        return "compute-bound" if ratio < 1 / (1 + NOTICEABLE) else "balanced"

    @property
    def added(self) -> float:
        """Share by which the input lengthens the model's step; its noise may make it negative."""
        return self.together.seconds / self.model.seconds - 1


@dataclasses.dataclass(frozen=True)
class InputBoundReading:
    """What holds the training up, by batch size.

    Attributes:
        shares: What was measured, ascending.
        left_out: Batch sizes that time or memory did not allow for.
        on_device: Whether batches are made on the device, after one another with the model.
    """

    shares: tuple[InputShare, ...]
    left_out: tuple[int, ...] = ()
    on_device: bool = False

    def verdict_at(self, batch_size: int) -> Verdict:
        """The verdict of the measured size that is nearest, by ratio."""
        return self.nearest(batch_size).verdict

    def nearest(self, batch_size: int) -> InputShare:
        """What was measured at the size that is nearest, by ratio."""
        return min(self.shares, key=lambda s: abs(math.log(s.batch_size / batch_size)))

    def at(self, batch_size: int) -> InputShare:
        """What was measured at a batch size.

        Raises:
            InputError: It was not measured.
        """
        for share in self.shares:
            if share.batch_size == batch_size:
                return share
        sizes = ", ".join(str(share.batch_size) for share in self.shares)
        raise InputError(f"`batch_size` must be a measured one: {sizes}. Received: {batch_size}.")

    def columns(self) -> tuple[str, ...]:
        """See tfbatch.instruments.Reading."""
        return (
            "batch size",
            f"{self._input()} (ms)",
            "model alone (ms)",
            "together (ms)",
            "input adds",
            "verdict",
        )

    def rows(self) -> list[tuple[str, ...]]:
        """See tfbatch.instruments.Reading."""
        return [
            (
                str(share.batch_size),
                *(f"{1e3 * t.seconds:.4g}" for t in (share.pipeline, share.model, share.together)),
                f"{share.added:+.0%}",
                share.verdict,
            )
            for share in self.shares
        ]

    def conclusion(self) -> str:
        """See tfbatch.instruments.Reading."""
        if self.on_device:
            return self._of_device()
        bound = self._sizes("input-bound")
        if bound:
            return (
                f"The pipeline is slower than the model at batch size {bound}: raise the "
                "pipeline's parallelism (`num_parallel_calls`, `prefetch`, cached or prepared "
                "data), not the batch."
            )
        balanced = self._sizes("balanced")
        if balanced:
            return (
                f"Pipeline and model take about as long at batch size {balanced}: a faster model "
                "or device would wait for the pipeline."
            )
        most = max(self.shares, key=lambda share: share.added)
        shared = (
            f", but shares the processor with it: at batch size {most.batch_size} the input "
            f"lengthens the step by {most.added:.0%}"
            if most.added > NOTICEABLE
            else ""
        )
        return (
            "The model holds the training up at every measured batch size: the pipeline alone is "
            f"faster{shared}."
        )

    def _of_device(self) -> str:
        """The same of batches that are made within the step."""
        made = "Batches are made on the device, within the step, and no pipeline feeds it"
        most = max(self.shares, key=lambda share: share.added)
        if most.added <= NOTICEABLE:  # it may be below 0, by noise
            return (
                f"{made}: that lengthens the model's step by no more than {NOTICEABLE:.0%} at "
                "every measured batch size."
            )
        return (
            f"{made}: at batch size {most.batch_size} that lengthens the model's step by "
            f"{most.added:.0%}, the most of the measured sizes: --data_on=host makes them beside "
            "the model."
        )

    def charts(self) -> tuple[Chart, ...]:
        """See tfbatch.instruments.Reading."""
        sizes = tuple(float(share.batch_size) for share in self.shares)
        kinds: dict[str, Callable[[InputShare], StepTime]] = {
            self._input(): lambda share: share.pipeline,
            "model alone, one batch in memory": lambda share: share.model,
            "together": lambda share: share.together,
        }
        series = []
        for name, kind in kinds.items():
            times = [kind(share) for share in self.shares]
            series.append(
                Series(
                    name,
                    sizes,
                    tuple(1e3 * t.seconds for t in times),
                    low=tuple(1e3 * min(t.rounds) for t in times),
                    high=tuple(1e3 * max(t.rounds) for t in times),
                )
            )
        chart = Chart("Input", "batch size", "milliseconds per step", tuple(series), x_ticks=sizes)
        return (chart,)

    def _input(self) -> str:
        return "made on the device" if self.on_device else "pipeline alone"

    def _sizes(self, verdict: Verdict) -> str:
        return ", ".join(str(s.batch_size) for s in self.shares if s.verdict == verdict)


def measure_input_bound(
    task: TaskContext, configurations: Sequence[Configuration], seconds: float = math.inf
) -> InputBoundReading:
    """Times pipeline, model, and both, in interleaved rounds, in the process that trains.

    Args:
        task: Model and data.
        configurations: What to measure, at most one for each batch size.
        seconds: About what it may take; sizes between the ends are left out where that is short.
    """
    programs = task.programs
    on_device = programs.workload.held is not None
    ascending = sorted(configurations, key=lambda one: one.batch_size)

    def visit(index: int) -> list[Paced]:
        configuration = ascending[index]
        most = steps_at_once(programs, configuration)
        kinds: list[TimeSteps] = [
            functools.partial(time_training, programs, configuration, cached=True),
            functools.partial(time_training, programs, configuration),
        ]
        if not on_device:
            kinds.insert(0, functools.partial(_time_pipeline, programs, configuration))
        size = configuration.batch_size
        with dropped_after_an_error(programs):
            return [first_visit(size, kind, most_at_once=most) for kind in kinds]

    found = measure_in_rounds(
        [one.batch_size for one in ascending],
        visit,
        rounds=FEWEST_ROUNDS,
        heartbeat=task.heartbeat,
        seconds=seconds,
        refused=programs.clear,
    )
    shares = tuple(
        InputShare(kinds[0].batch_size, *_three([step_time_of(paced) for paced in kinds]))
        for kinds in found.visited
    )
    return InputBoundReading(shares, (*found.left_out, *found.too_large), on_device)


def _three(times: list[StepTime]) -> tuple[StepTime, StepTime, StepTime]:
    """Input, model and both; of two times, without and with an input that is made in the step."""
    if len(times) == 3:
        return times[0], times[1], times[2]
    model, together = times
    pairs = zip(model.rounds, together.rounds, strict=True)
    rounds = tuple(max(both - alone, 0.0) for alone, both in pairs)
    return StepTime(model.batch_size, statistics.median(rounds), rounds), model, together


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> InputBoundReading:
    """See tfbatch.instruments.Instrument. At most four sizes, spread over those of interest."""
    configurations = [bench.configuration(size) for size in spread(batch_sizes, _MOST_SIZES)]
    return bench.measure(measure_input_bound, configurations, seconds)


def spread(sizes: Sequence[int], most: int) -> list[int]:
    """At most this many of the sizes, the ends among them."""
    if len(sizes) <= most:
        return list(sizes)
    return [sizes[round(i * (len(sizes) - 1) / (most - 1))] for i in range(most)]


def _time_pipeline(
    programs: ProgramCache,
    configuration: Configuration,
    *,
    executions: int,
    warmup: int,
    at_once: int,
) -> float:
    """Seconds of a batch of the stream that nobody trains on."""
    steps = at_once * (warmup + executions)
    iterator = iter(stream(programs, configuration.batch_size, steps))
    _take(iterator, tf.constant(at_once * warmup))
    started = time.perf_counter()
    for _ in range(executions):
        _take(iterator, tf.constant(at_once))
    return (time.perf_counter() - started) / (at_once * executions)


@tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
def _take(iterator: Iterator[object], count: tf.Tensor) -> None:
    """Draws batches as a training step does: not in Python, which takes longer than small ones."""
    for _ in tf.range(count):
        next(iterator)
