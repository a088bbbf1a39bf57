"""A step with XLA and without, side by side at one batch size: what Keras's "auto" is worth."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tfbatch.configuration import Configuration
from tfbatch.training.compilation import uses_xla
from tfbatch.training.context import TaskContext
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.step_times import SEED, StepTime
from tfbatch.training.two_ways import SpeedUp, Way, speed_up, time_two_ways

if TYPE_CHECKING:
    import keras


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
    def speed_up(self) -> SpeedUp | None:
        """How many times as fast XLA is; None without both."""
        if self.on is None or self.off is None:
            return None
        return speed_up(self.on, self.off)

    def conclusion(self) -> str:
        """One sentence."""
        at = f"at batch size {self.batch_size}"
        gain = self.speed_up
        if self.on is None or self.off is None or gain is None:
            return f"XLA was not compared {at}: {self.failure}."
        found = (
            f"{at} a step takes {1e3 * self.on.seconds:.4g} ms with XLA (compiled once in "
            f"{self.on.compilation:.2g} s for each batch size) and {1e3 * self.off.seconds:.4g} ms "
            "without"
        )
        faster = gain.faster
        if faster is None:
            verdict = "the rounds show neither as the faster"
        elif faster:
            verdict = f"XLA is {gain.middle:.2f} times as fast"
        else:
            verdict = f"without XLA it is {1 / gain.middle:.2f} times as fast"
        return f"{found[0].upper()}{found[1:]}: {verdict}, {self._advice(faster)}."

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
    workload = task.programs.workload
    found = time_two_ways(
        task,
        configuration,
        seconds,
        Way("without it", ProgramCache(workload.with_jit_compile(False))),
        Way("with it", ProgramCache(workload.with_jit_compile(True)), _not_compiled),
    )
    used = uses_xla(workload.build(SEED, arguments=configuration.model), workload.jit_compile)
    return XlaComparison(
        configuration.batch_size, used, off=found.first, on=found.second, failure=found.failure
    )


def _not_compiled(model: keras.Model) -> str:
    if model.jit_compile:
        return ""
    return "a layer of the model does not support it, and Keras turns it off"
