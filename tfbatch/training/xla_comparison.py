"""A step with XLA and without, side by side at one batch size: what Keras's "auto" is worth."""

from __future__ import annotations

import dataclasses
import functools
import statistics

from tfbatch.configuration import Configuration
from tfbatch.errors import TfbatchError
from tfbatch.interleaved_rounds import Paced, first_visit, measure_round
from tfbatch.training.compilation import uses_xla
from tfbatch.training.context import TaskContext
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.step_times import (
    ROUNDS,
    SEED,
    StepTime,
    dropped_after_an_error,
    step_time_of,
    steps_at_once,
    time_training,
)

_MOST_ROUND_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class XlaComparison:
    """Step times of one batch size with XLA and without, in interleaved rounds.

    Attributes:
        batch_size: Examples in the step.
        used: Whether everything else was measured with XLA.
        off: Without; None where that failed.
        on: With; None where that failed.
        failure: Why one of the two was not measured; empty where both were.
    """

    batch_size: int
    used: bool
    off: StepTime | None
    on: StepTime | None
    failure: str = ""

    @property
    def speed_up(self) -> float | None:
        """Seconds without, divided by seconds with XLA: the median over rounds; None without both.

        Only where every round says the same is one of the two called faster.
        """
        ratios = self._ratios()
        return statistics.median(ratios) if ratios else None

    def faster(self) -> bool | None:
        """Whether XLA is: True or False where every round says so, else None."""
        ratios = self._ratios()
        if ratios and min(ratios) > 1:
            return True
        return False if ratios and max(ratios) < 1 else None

    def conclusion(self) -> str:
        """One sentence."""
        at = f"at batch size {self.batch_size}"
        if self.on is None or self.off is None or self.speed_up is None:
            return f"XLA was not compared {at}: {self.failure}."
        found = (
            f"{at} a step takes {1e3 * self.on.seconds:.4g} ms with XLA (compiled once in "
            f"{self.on.compilation:.2g} s for each batch size) and {1e3 * self.off.seconds:.4g} ms "
            "without"
        )
        faster = self.faster()
        if faster is None:
            verdict = "the rounds show neither as the faster"
        elif faster:
            verdict = f"XLA is {self.speed_up:.2f} times as fast"
        else:
            verdict = f"without XLA it is {1 / self.speed_up:.2f} times as fast"
        return f"{found[0].upper()}{found[1:]}: {verdict}, {self._advice(faster)}."

    def _ratios(self) -> list[float]:
        if self.on is None or self.off is None:
            return []
        return [off / on for off, on in zip(self.off.rounds, self.on.rounds, strict=True)]

    def _advice(self, faster: bool | None) -> str:
        state = f"and it is {'on' if self.used else 'off'} here"
        if faster is None or faster == self.used:
            return state
        return f"{state}: --jit_compile={str(faster).lower()} changes that"


def compare_xla(task: TaskContext, configuration: Configuration, seconds: float) -> XlaComparison:
    """Times a step with XLA and without, in the process that trains.

    Args:
        task: Model and data.
        configuration: What to train with.
        seconds: About what the rounds of both may take; tracing and compilation come on top.

    Raises:
        StoppedError: A stop was requested.
    """
    workload, size = task.programs.workload, configuration.batch_size
    each = min(seconds / (2 * ROUNDS), _MOST_ROUND_SECONDS)
    kinds: dict[bool, Paced] = {}
    failure = ""
    for with_xla in (False, True):
        task.heartbeat_or_stop()
        programs = ProgramCache(workload.with_jit_compile(with_xla))
        time_steps = functools.partial(time_training, programs, configuration)
        try:
            model = programs.begin(configuration, total_examples=size, seed=SEED)
            if model.jit_compile != with_xla:
                failure = "a layer of the model does not support it, and Keras turns it off"
                break
            with dropped_after_an_error(programs):
                most = steps_at_once(programs, configuration)
                kinds[with_xla] = first_visit(size, time_steps, most_at_once=most)
        except TfbatchError:
            raise
        except Exception as error:  # an operation that XLA cannot compile is a result
            lines = str(error).strip().splitlines() or [""]
            failure = f"{'with' if with_xla else 'without'} it training fails: {lines[0]}"
            break
    used = uses_xla(workload.build(SEED, arguments=configuration.model), workload.jit_compile)
    if failure:
        return XlaComparison(size, used, None, None, failure.rstrip("."))
    for _ in range(ROUNDS):
        measure_round(list(kinds.values()), each, heartbeat=task.heartbeat_or_stop)
    # What comes around the steps of a visit is alike: the rest of XLA's was its compilation.
    kinds[True].compilation = max(kinds[True].around - kinds[False].around, 0.0)
    return XlaComparison(size, used, step_time_of(kinds[False]), step_time_of(kinds[True]))
