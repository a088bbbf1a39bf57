"""PREDICTED batch size that trains fastest, from the noise scale and step times. Runs must verify.

With the noise scale in the place of the critical batch size, the seconds to a target are

    seconds(B) = min_steps * (1 + noise_scale / B) * step_seconds(B)

where min_steps is unknown, so that only ratios are predicted (McCandlish et al. 2018, arXiv
1812.06162). The noise scale grows during training and can differ from the critical batch size
several times over, either way: with the Hessian, which it leaves out, it would be tr(H Sigma) /
G'HG (the same paper), and a noisy quadratic was fastest at 2.7 times the predicted size. The
interval is that of the measurement alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from tfbatch.charts import Chart, Mark, Series
from tfbatch.errors import InputError
from tfbatch.estimators.critical_batch_size import Hyperbola
from tfbatch.estimators.interval import Interval
from tfbatch.estimators.noise_scale import NoiseScale
from tfbatch.estimators.statistical_efficiency import goodput, statistical_efficiency
from tfbatch.estimators.step_time import StepTimeFit
from tfbatch.estimators.time_to_target import AS_FAST, predict_fastest_batch_size

OFF = 4
"""A search that verifies a prediction looks from a quarter of it to so many times of it."""
CAVEAT = (
    "a noise scale can be several times the critical batch size or a fraction of it "
    "(McCandlish et al. 2018, arXiv 1812.06162: it leaves out the curvature)"
)


def sizes_to_verify(
    predicted: int, *, largest: float = math.inf, also: Iterable[int] = ()
) -> tuple[int, ...]:
    """Powers of two from at most a quarter to at least four times a prediction, ascending.

    Args:
        predicted: The predicted batch size.
        largest: Largest size allowed.
        also: Further sizes, such as the baseline's.
    """
    low = math.floor(math.log2(max(predicted / OFF, 1)))
    high = math.ceil(math.log2(predicted * OFF))
    powers = {2**n for n in range(low, high + 1) if 2**n <= largest}
    return tuple(sorted(powers | set(also)))


@dataclasses.dataclass(frozen=True)
class PredictedSize:
    """What is PREDICTED of one measured batch size.

    Attributes:
        batch_size: The size.
        step_seconds: Measured seconds of a step.
        efficiency: Predicted progress per example, relative to the baseline's batch size.
        goodput: Predicted useful examples per second: 1 is one at the baseline's batch size.
        speed_up: Predicted seconds to a target at the baseline's batch size, divided by those here.
    """

    batch_size: int
    step_seconds: float
    efficiency: float
    goodput: float
    speed_up: float


@dataclasses.dataclass(frozen=True)
class BatchSizePrediction:
    """A PREDICTION of the batch size that reaches a target first. Not a measurement.

    Attributes:
        batch_size: Predicted fastest size.
        interval: The same from the ends of the noise scale's interval: the error of measuring it,
            not that of taking it for the critical batch size.
        as_fast_from: Smallest size predicted to take at most 5 % longer.
        as_fast_to: Largest such size.
        speed_up: Predicted seconds at the baseline's batch size, divided by those at this one.
        baseline: The baseline's batch size.
        largest: Largest size allowed.
        limited_by: What holds the size where it is: "noise" (larger ones waste examples), "memory"
            (the largest allowed size would be passed; the probe says "the number of training
            examples" where it is theirs) or "one example"; "measured sizes" where the largest timed
            size would be passed, or no line fits the step times and the fastest of the measured
            sizes is named.
        sizes: What is predicted of each measured size, ascending.
        doubts: Why not to rely on it, beside that it is a prediction.
    """

    batch_size: int
    interval: Interval
    as_fast_from: int
    as_fast_to: int
    speed_up: float
    baseline: int
    largest: int
    limited_by: str
    sizes: tuple[PredictedSize, ...]
    doubts: tuple[str, ...]

    def columns(self) -> tuple[str, ...]:
        """Headings of its table."""
        return (
            "batch size",
            "step (ms), measured",
            "predicted progress per example",
            "predicted goodput (examples/s)",
            "predicted speed-up",
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Cells of its table."""
        return [
            (
                str(size.batch_size),
                f"{1e3 * size.step_seconds:.4g}",
                f"{size.efficiency:.2f}",
                f"{size.goodput:,.0f}",
                f"{size.speed_up:.2f}",
            )
            for size in self.sizes
        ]

    def conclusion(self) -> str:
        """One sentence."""
        doubts = f"; weak: {'; '.join(self.doubts)}" if self.doubts else ""
        return (
            f"Predicted fastest to a target: batch size {self.batch_size} "
            f"({self.as_fast_from} to {self.as_fast_to} within {AS_FAST:.0%}; "
            f"{self.interval} from the error of the measured noise scale alone; limited by "
            f"{self.limited_by}), predicted {self.speed_up:.2f} times as fast as batch size "
            f"{self.baseline}; {CAVEAT}: compare sizes from a quarter of it to {OFF} times{doubts}."
        )

    def charts(self) -> tuple[Chart, ...]:
        """Predicted speed-up against batch size."""
        sizes = tuple(float(size.batch_size) for size in self.sizes)
        speed_ups = tuple(size.speed_up for size in self.sizes)
        return (
            Chart(
                f"Predicted speed-up against batch size {self.baseline}",
                "batch size",
                "predicted speed-up",
                (Series("predicted, from measured step times", sizes, speed_ups, kind="dashed"),),
                marks=(Mark(self.batch_size, f"predicted fastest {self.batch_size}"),),
                log_y=False,
                x_ticks=sizes,
            ),
        )


def predict_batch_size(
    noise_scale: NoiseScale,
    step_seconds: Mapping[int, float],
    *,
    fit: StepTimeFit | None,
    baseline: int,
    largest: int,
) -> BatchSizePrediction:
    """Predicts the fastest batch size, the range that is about as fast, and speed-ups.

    Args:
        noise_scale: Measured gradient noise scale.
        step_seconds: Measured seconds of a step by batch size, the baseline's among them.
        fit: A form fitted to them; where it does not fit, or is None, only measured sizes are
            compared.
        baseline: Batch size of the baseline.
        largest: Largest size allowed: what fits in memory, or the number of training examples.

    Raises:
        InputError: A noise scale that is not told from 0 or infinity, a baseline that was not
            measured, a largest size below all measured ones.
    """
    noise = noise_scale.noise_scale
    if not (0 < noise < math.inf):
        raise InputError(
            "Nothing is predicted from a noise scale that is not a positive number. Received: "
            f"{noise_scale}. Measure it over more batches, or later in the training."
        )
    if baseline not in step_seconds:
        raise InputError(
            f"`baseline` must be a measured batch size: {sorted(step_seconds)}. "
            f"Received: {baseline}."
        )
    allowed = {size: step_seconds[size] for size in sorted(step_seconds) if size <= largest}
    if not allowed:
        raise InputError(
            f"`largest` must be >= the smallest measured batch size, {min(step_seconds)}. "
            f"Received: {largest}."
        )
    found = _fastest(noise, allowed, fit, largest)
    ends = [noise_scale.interval.low, noise_scale.interval.high]
    from_ends = [_fastest_at_an_end(end, allowed, fit, largest) for end in ends]
    reference = _relative_seconds(noise, baseline, step_seconds[baseline])
    if fit is None or found.batch_size in step_seconds:  # the row of the table says the same
        seconds = step_seconds[found.batch_size]
    else:
        seconds = fit.seconds(found.batch_size)
    doubts = list(noise_scale.doubts)
    if found.limited_by == "measured sizes" and fit is not None and fit.fits:
        doubts.append(f"sizes larger than {max(step_seconds)} were not timed and may be faster")
    if found.batch_size < min(step_seconds):
        doubts.append(
            f"it is smaller than any timed size ({min(step_seconds)}): its time is extrapolated"
        )
    if fit is None or not fit.fits:
        doubts.append("no line fits the step times: only measured sizes are compared")
    return BatchSizePrediction(
        batch_size=found.batch_size,
        interval=Interval(float(min(from_ends)), float(max(from_ends)), noise_scale.interval.level),
        as_fast_from=found.as_fast_from,
        as_fast_to=found.as_fast_to,
        speed_up=reference / _relative_seconds(noise, found.batch_size, seconds),
        baseline=baseline,
        largest=largest,
        limited_by=found.limited_by,
        sizes=tuple(
            PredictedSize(
                size,
                each,
                statistical_efficiency(size, base_batch_size=baseline, noise_scale=noise),
                goodput(size, step_seconds=each, base_batch_size=baseline, noise_scale=noise),
                reference / _relative_seconds(noise, size, each),
            )
            for size, each in sorted(step_seconds.items())
        ),
        doubts=tuple(doubts),
    )


@dataclasses.dataclass(frozen=True)
class _Fastest:
    batch_size: int
    as_fast_from: int
    as_fast_to: int
    limited_by: str


def _fastest(
    noise: float, allowed: Mapping[int, float], fit: StepTimeFit | None, largest: int
) -> _Fastest:
    """From the fitted form, or of the measured sizes where there is none."""
    if fit is not None and fit.fits:
        found = predict_fastest_batch_size(Hyperbola(1.0, noise), fit, largest=largest)
        return _Fastest(
            found.batch_size, found.as_fast_from, found.as_fast_to, str(found.limited_by)
        )
    seconds = {size: _relative_seconds(noise, size, each) for size, each in allowed.items()}
    best = min(seconds, key=lambda size: seconds[size])
    as_fast = [size for size in seconds if seconds[size] <= (1 + AS_FAST) * seconds[best]]
    return _Fastest(best, min(as_fast), max(as_fast), "measured sizes")


def _fastest_at_an_end(
    noise: float, allowed: Mapping[int, float], fit: StepTimeFit | None, largest: int
) -> int:
    """Without an upper end the steps fall with the batch size as far as one can see."""
    tiny, huge = 1e-3 * min(allowed), 1e6 * largest
    return _fastest(min(max(noise, tiny), huge), allowed, fit, largest).batch_size


def _relative_seconds(noise: float, batch_size: int, step_seconds: float) -> float:
    """Seconds to a target in units of its fewest steps."""
    return (1 + noise / batch_size) * step_seconds
