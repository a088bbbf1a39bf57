"""A step with a mixed policy and with float32, side by side: what `--precision` is worth here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import keras

from tfbatch.configuration import Configuration
from tfbatch.interleaved_rounds import fewest_seconds
from tfbatch.training.context import TaskContext
from tfbatch.training.devices import device_kind
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.step_times import ROUNDS, StepTime
from tfbatch.training.two_ways import SpeedUp, TwoWays, Way, speed_up, time_two_ways

FULL = "float32"


def mixed_policy_of(precision: str, device_kind: str) -> str:
    """The policy that is compared with float32.

    Args:
        precision: The policy that is trained with. A mixed one is what was chosen: it is compared.
        device_kind: Kind of device that trains, see tfbatch.training.devices.Devices.
    """
    if precision != FULL:
        return precision
    return "mixed_bfloat16" if device_kind in ("CPU", "TPU") else "mixed_float16"


@dataclasses.dataclass(frozen=True)
class PrecisionAt:
    """Step times of one batch size with both policies, in interleaved rounds.

    Attributes:
        batch_size: Examples in the step.
        full: With float32; None where one of the two was not measured.
        mixed: With the mixed policy; None where `full` is.
        failure: Why they were not measured, a clause; empty where they were.
    """

    batch_size: int
    full: StepTime | None
    mixed: StepTime | None
    failure: str = ""

    @property
    def speed_up(self) -> SpeedUp | None:
        """How many times as fast the mixed policy is; None without both."""
        if self.full is None or self.mixed is None:
            return None
        return speed_up(self.mixed, self.full)

    def found(self) -> str:
        """A clause with the ratio, its interval and the step times; empty without both."""
        gain = self.speed_up
        if self.full is None or self.mixed is None or gain is None:
            return ""
        least, greatest = gain.interval
        return (
            f"{gain.middle:.2f} x as fast at batch size {self.batch_size} ({least:.2f} to "
            f"{greatest:.2f} in {len(gain.ratios)} rounds; {1e3 * self.mixed.seconds:.4g} ms a "
            f"step, {1e3 * self.full.seconds:.4g} ms with {FULL})"
        )


@dataclasses.dataclass(frozen=True)
class PrecisionComparison:
    """Step times with a mixed policy and with float32. What it does to scores is not measured.

    Attributes:
        policy: The mixed policy.
        used: The policy that everything else was measured with.
        sizes: By batch size, ascending.
    """

    policy: str
    used: str
    sizes: tuple[PrecisionAt, ...]

    def conclusion(self) -> str:
        """One sentence."""
        missing = [one for one in self.sizes if one.speed_up is None]
        told = [one.found() for one in self.sizes if one.speed_up is not None]
        if not told:
            where = _listed([one.batch_size for one in missing])
            why = "; ".join(dict.fromkeys(one.failure for one in missing))
            return f"{self.policy} was not compared with {FULL} at batch size {where}: {why}."
        more = "".join(
            f"; at batch size {one.batch_size} they were not compared: {one.failure}"
            for one in missing
        )
        return f"{self.policy} is {' and '.join(told)}: {self._verdict()}{more}."

    def compilation(self) -> float:
        """Seconds of tracing and compilation."""
        times = [time for one in self.sizes for time in (one.full, one.mixed) if time]
        return sum(time.compilation for time in times)

    def _verdict(self) -> str:
        gains = [(one.batch_size, one.speed_up.faster) for one in self.sizes if one.speed_up]
        faster = [size for size, gain in gains if gain]
        if not faster:
            slower = all(gain is False for _, gain in gains)
            other = f", and --precision={FULL} is faster"
            return f"it gains nothing here{other if slower and self.used != FULL else ''}"
        alone = "" if len(faster) == len(gains) else f" at batch size {_listed(faster)} alone"
        if self.used != FULL:
            return f"it gains time here{alone}"
        return (
            f"it gains time here{alone}; --precision={self.policy} trains with it, and what it "
            "does to the scores was not measured"
        )


def compare_precision(
    task: TaskContext,
    configurations: Sequence[Configuration],
    known: Mapping[int, float],
    seconds: float,
) -> PrecisionComparison:
    """Times steps with a mixed policy and with float32, in the process that trains.

    Args:
        task: Model and data.
        configurations: What to train with, at most one for each batch size, ascending.
        known: Seconds of a step by batch size, with the policy in use: a size whose steps alone
            would not fit into the time is not begun.
        seconds: About what the rounds of all may take; tracing and compilation come on top.

    Raises:
        StoppedError: A stop was requested.
    """
    workload = task.programs.workload
    policy = mixed_policy_of(workload.precision, device_kind())
    full, mixed = (_way(task.programs, precision) for precision in (FULL, policy))
    each, found = seconds / len(configurations), []
    try:
        for configuration in configurations:
            size = configuration.batch_size
            times = TwoWays(None, None, "the time is too short")
            if fewest_seconds(2 * known[size], ROUNDS) <= each:
                times = time_two_ways(task, configuration, each, full, mixed)
            found.append(PrecisionAt(size, times.first, times.second, times.failure))
    finally:  # Keras's policy is the process's: it must not outlive the comparison
        keras.config.set_dtype_policy(workload.precision)
    return PrecisionComparison(policy, workload.precision, tuple(found))


def _way(programs: ProgramCache, precision: str) -> Way:
    def refused(model: keras.Model) -> str:
        """A layer that names its policy keeps it; one that names none has the process's."""
        if any(layer.dtype_policy.name == precision for layer in _computing(model)):
            return ""
        return f"no layer of the model takes {precision}, since each has a policy of its own"

    workload = programs.workload
    if precision != workload.precision:  # what is in use is traced already
        programs = ProgramCache(workload.with_precision(precision))
    return Way(f"with {precision}", programs, refused)


def _computing(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Layers with weights that consist of no others: models have the process's policy in any case.

    Inputs have none, and would take what the data is.
    """
    for layer in model._flatten_layers(include_self=False):
        if layer.weights and not any(layer._flatten_layers(include_self=False)):
            yield layer


def _listed(sizes: Sequence[int]) -> str:
    return " and ".join(map(str, sizes))
