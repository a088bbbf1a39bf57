"""PREDICTED time to a target: a statistical curve times a hardware curve. Runs must verify it.

With steps(B) = min_steps (1 + critical / B) and a step of a + b B seconds the fastest batch size is
sqrt(a critical / b), which takes min_steps (sqrt(a) + sqrt(b critical))^2 seconds. With a step of
max(a, b B) seconds it is a / b: the size at which the device is full, whatever the noise.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from tfbatch.errors import InputError
from tfbatch.estimators.critical_batch_size import Hyperbola
from tfbatch.estimators.step_time import StepTimeFit
from tfbatch.estimators.vectors import check_positive

AS_FAST = 0.05
"""Predicted times that differ by less than this share are called equal."""


Limit = Literal["noise", "memory", "measured sizes", "one example"]


@dataclasses.dataclass(frozen=True)
class TimePrediction:
    """A PREDICTION of the batch size that reaches the target first. Not a measurement.

    Attributes:
        batch_size: Predicted fastest size.
        seconds: Predicted seconds of training steps to the target.
        steps: Predicted steps.
        examples: Predicted examples.
        limited_by: What holds the size where it is: "noise" (larger ones waste examples), "memory"
            (the largest allowed size would be passed, whatever allows no larger one), "measured
            sizes" (the largest timed one would be passed) or "one example".
        as_fast_from: Smallest size predicted to take at most 5 % longer.
        as_fast_to: Largest such size that is allowed and not larger than any that was timed.
    """

    batch_size: int
    seconds: float
    steps: float
    examples: float
    limited_by: Limit
    as_fast_from: int
    as_fast_to: int

    def __str__(self) -> str:
        """For a table."""
        return (
            f"predicted: {self.batch_size} ({self.seconds:.3g} s, limited by {self.limited_by}; "
            f"{self.as_fast_from} to {self.as_fast_to} within {AS_FAST:.0%})"
        )


def predict_seconds(hyperbola: Hyperbola, step_time: StepTimeFit, *, batch_size: float) -> float:
    """Predicted seconds to the target at a batch size.

    Raises:
        InputError: A batch size that is not > 0 or above the largest timed one, a step time that
            does not fit its form.
    """
    check_positive(batch_size=batch_size)
    _check_fits(step_time)
    return hyperbola.steps(batch_size) * step_time.seconds(batch_size)


def predict_fastest_batch_size(
    hyperbola: Hyperbola, step_time: StepTimeFit, *, largest: int
) -> TimePrediction:
    """The batch size that is predicted to reach the target in the least time.

    Args:
        hyperbola: Steps against batch size. From a noise scale alone, take that for the critical
            batch size: it can be wrong several times over.
        step_time: Seconds of a step against batch size. Nothing is predicted beyond the largest
            size that was timed.
        largest: Largest size allowed: what fits in memory, or the number of training examples.

    Raises:
        InputError: A largest size below 1, a step time that does not fit its form.
    """
    if largest < 1:
        raise InputError(f"`largest` must be >= 1. Received: {largest=}.")
    _check_fits(step_time)
    optimum = _optimum(hyperbola.critical_batch_size, step_time)
    allowed, largest = largest, min(largest, max(1, math.floor(step_time.largest)))

    def seconds(batch_size: float) -> float:
        return predict_seconds(hyperbola, step_time, batch_size=batch_size)

    below = max(1, min(largest, math.floor(min(optimum, largest))))
    best = min((below, min(below + 1, largest)), key=seconds)
    limited_by: Limit = "noise"
    if optimum >= largest + 0.5:
        limited_by = "memory" if largest == allowed else "measured sizes"
    elif optimum < 1:
        limited_by = "one example"
    low, high = _as_fast(
        hyperbola.critical_batch_size,
        step_time,
        (1 + AS_FAST) * seconds(best) / hyperbola.min_steps,
    )
    return TimePrediction(
        batch_size=best,
        seconds=seconds(best),
        steps=hyperbola.steps(best),
        examples=hyperbola.examples(best),
        limited_by=limited_by,
        as_fast_from=max(1, min(best, math.ceil(low))),
        as_fast_to=max(best, math.floor(min(high, largest))),
    )


def _check_fits(step_time: StepTimeFit) -> None:
    if not step_time.fits:
        raise InputError(
            "Nothing is predicted from a step time that does not fit its form: measure more batch "
            f"sizes, or compare measured times. Received: {step_time}."
        )


def _optimum(critical: float, step_time: StepTimeFit) -> float:
    fixed, slope = step_time.fixed_seconds, step_time.seconds_per_example
    if slope == 0:
        return math.inf
    return math.sqrt(fixed * critical / slope) if step_time.form == "affine" else fixed / slope


def _as_fast(critical: float, step_time: StepTimeFit, bar: float) -> tuple[float, float]:
    """Ends of the sizes at which (1 + critical / B) * seconds(B) is at most `bar`."""
    fixed, slope = step_time.fixed_seconds, step_time.seconds_per_example
    if step_time.form == "saturating" or slope == 0:
        low = fixed * critical / (bar - fixed) if bar > fixed else math.inf
        return low, bar / slope - critical if slope else math.inf
    middle = bar - fixed - slope * critical
    root = math.sqrt(max(middle**2 - 4 * slope * fixed * critical, 0.0))
    return (middle - root) / (2 * slope), (middle + root) / (2 * slope)
