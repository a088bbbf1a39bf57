"""What follows from a training's measurements, in sentences. Predictions are labeled."""

from __future__ import annotations

import dataclasses
import math

from tfbatch.callbacks._step_clock import TimedSteps
from tfbatch.estimators.memory_line import predict_largest_batch_size
from tfbatch.estimators.noise_scale import NoiseScale
from tfbatch.estimators.predicted_batch_size import (
    CAVEAT,
    PredictedSize,
    predict_batch_size,
    sizes_to_verify,
)
from tfbatch.estimators.step_time import StepTimeFit, fit_step_time

INPUT_BOUND = 0.3
"""From this share of waiting on, the input is what to improve first."""
_WORTHWHILE = 1.1


@dataclasses.dataclass(frozen=True)
class TrainingMeasurements:
    """What the advice rests on.

    Attributes:
        batch_size: Of the training.
        examples_per_second: Of the epoch.
        input_wait: Share of the epoch's training time spent waiting for batches.
        peak_memory_mb: Peak so far; NaN where the system does not tell.
        noise: The gradient noise scale; None if it was not measured.
        no_noise: Why not.
        steps: The timed steps; None if there are none.
        no_steps: Why not; empty where it was not tried.
        budget_bytes: Memory of the device; None where it is unknown.
    """

    batch_size: int
    examples_per_second: float
    input_wait: float
    peak_memory_mb: float
    noise: NoiseScale | None
    no_noise: str
    steps: TimedSteps | None
    no_steps: str = ""
    budget_bytes: float | None = None


@dataclasses.dataclass(frozen=True)
class Advice:
    """The advice after an epoch.

    Attributes:
        lines: What is printed.
        batch_size: PREDICTED fastest batch size; None where nothing is predicted.
        speed_up: PREDICTED time to the same loss at the present size, divided by that there.
        command: Verifies it.
    """

    lines: tuple[str, ...]
    batch_size: int | None
    speed_up: float | None
    command: str

    def __str__(self) -> str:
        """As printed."""
        return "\n".join(self.lines)


def advise(measured: TrainingMeasurements, *, command: str) -> Advice:
    """The lines, and the prediction where the measurements allow one.

    Args:
        measured: The measurements.
        command: The command that verifies, with {batch_sizes} for the sizes.
    """
    noise = measured.noise
    said = f"gradient noise scale {noise}" if noise else f"no noise scale: {measured.no_noise}"
    lines = [
        f"input: {measured.input_wait:.0%} of the time is waiting for batches; "
        f"{measured.examples_per_second:,.0f} examples/s at B={measured.batch_size}",
        said,
        _memory(measured),
    ]
    fit, reason = _step_time(measured)
    if fit is None or reason:
        verify = command.format(batch_sizes=_sizes(measured, measured.batch_size))
        lines.append(f"nothing predicted: {reason}; measure with: {verify}")
        return Advice(tuple(lines), None, None, verify)
    predicted = _predicted(measured, fit)
    size, speed_up = predicted.batch_size, predicted.speed_up
    verify = command.format(batch_sizes=_sizes(measured, size))
    lines.append(f"a step takes {fit}")
    if size == measured.batch_size or speed_up < _WORTHWHILE:
        size, speed_up = measured.batch_size, 1.0
        what = f"B={size} is within {_WORTHWHILE - 1:.0%} of the fastest timed size"
    else:
        what = f"B={size}, {speed_up:.1f} x faster to the same loss"
    weak = ", from a weak noise scale" if noise and noise.low_confidence else ""
    lines.append(f"predicted: {what}{weak}; not verified: {CAVEAT}; verify with: {verify}")
    return Advice(tuple(lines), size, speed_up, verify)


def _step_time(measured: TrainingMeasurements) -> tuple[StepTimeFit | None, str]:
    """The fit of the step time, and why nothing may be predicted."""
    if measured.noise is None:
        return None, "the noise scale is unknown"
    if not math.isfinite(measured.noise.noise_scale) or measured.noise.noise_scale <= 0:
        return None, "the noise scale is not told from 0 or infinity yet"
    if measured.steps is None or len(measured.steps.seconds) < 2:
        return None, "no step times at other batch sizes"
    fit = fit_step_time(list(measured.steps.seconds), list(measured.steps.seconds.values()))
    if not fit.fits:
        return fit, f"the step time against the batch size fits no form ({fit})"
    if measured.input_wait > INPUT_BOUND:
        return fit, (
            "training waits for its input, and another batch size does not fix that: add "
            "prefetch, cache or a parallel map first"
        )
    return fit, ""


def _predicted(measured: TrainingMeasurements, fit: StepTimeFit) -> PredictedSize:
    """The timed size that is nearest to the predicted one."""
    assert measured.noise is not None
    assert measured.steps is not None
    seconds = measured.steps.seconds
    made = predict_batch_size(
        measured.noise, seconds, fit=fit, baseline=measured.batch_size, largest=max(seconds)
    )
    return min(made.sizes, key=lambda size: abs(math.log(size.batch_size / made.batch_size)))


def _memory(measured: TrainingMeasurements) -> str:
    budget, steps = measured.budget_bytes, measured.steps
    known = not math.isnan(measured.peak_memory_mb)
    said = f"memory: peak {measured.peak_memory_mb:,.0f} MB" if known else "memory: peak unknown"
    said += "" if budget is None or not known else f" of {budget / 1e6:,.0f}"
    if steps is None or not steps.peak_bytes:
        why = f": {measured.no_steps}" if measured.no_steps else ""
        return f"{said}; larger batches were not tried{why}"
    ran = max(steps.peak_bytes)
    said += f"; a step of B={ran} ran"
    said += f" with a peak of {steps.peak_bytes[ran] / 1e6:,.0f} MB" if known else ""
    if steps.failed is not None:
        return f"{said}; B={steps.failed} does not fit"
    if not known:
        return f"{said}; no estimate beyond it"
    if budget is None:
        return f"{said}; no estimate beyond it: the device's memory is unknown"
    rising = {s: p for s, p in steps.peak_bytes.items() if s >= measured.batch_size}
    if len(rising) < 2 or len(set(rising.values())) < len(rising):
        return f"{said}; no estimate beyond it: the peak did not rise"
    line = predict_largest_batch_size(list(rising), list(rising.values()), budget_bytes=budget)
    if math.isinf(line.interval.high):
        return f"{said}; no estimate beyond it: the peak hardly rose"
    return f"{said}; estimate of the largest that fits, {line}, not verified"


def _sizes(measured: TrainingMeasurements, predicted: int) -> str:
    failed = measured.steps.failed if measured.steps else None
    largest = failed - 1 if failed else math.inf
    also = (measured.batch_size, predicted)
    return ",".join(map(str, sizes_to_verify(predicted, largest=largest, also=also)))
