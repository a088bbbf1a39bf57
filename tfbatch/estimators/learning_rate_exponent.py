"""How the best learning rate follows the batch size: a power of it, or a form that bends.

    power        rate(B) = rate_at_one * B ** exponent           1 is the linear rule, 0.5 the root
    saturating   rate(B) = peak / (1 + turn / B)                 SGD: McCandlish et al., 1812.06162
    surge        rate(B) = 2 peak / (sqrt(turn / B) + sqrt(B / turn))
                                                                 Adam: Li et al. 2024, 2405.14578

A saturating rate is linear far below `turn` and constant far above it; a surging one is a root far
below, peaks at `turn` and falls again. Both have as many parameters as a power, so that their
residuals may be compared as they are.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval, quantile_of_t
from tfbatch.estimators.vectors import Array, check_positive, check_same_length, checked_array

FEWEST_SIZES = 3
_GRID = 101

Form = Literal["power", "saturating", "surge"]


@dataclasses.dataclass(frozen=True)
class LearningRateCurve:
    """One form, fitted by least squares in the logarithm.

    Attributes:
        form: "power", "saturating" or "surge".
        scale: The rate at a batch size of 1 for a power, else the peak.
        shape: The exponent for a power, else the batch size at which the curve turns.
        deviation: Standard deviation of the log of the measured rates around the curve.
    """

    form: Form
    scale: float
    shape: float
    deviation: float

    def learning_rate(self, batch_size: float) -> float:
        """The fitted rate at a batch size; outside the measured sizes it is a prediction.

        Raises:
            InputError: A batch size that is not > 0.
        """
        check_positive(batch_size=batch_size)
        log_size = math.log(batch_size)
        if self.form == "power":
            return self.scale * math.exp(self.shape * log_size)
        return self.scale * math.exp(float(_bend(self.form, log_size - math.log(self.shape))))

    def __str__(self) -> str:
        """For a table, e.g. "power: 0.0031 * B^0.97 (off by 12 %)"."""
        formula = {
            "power": f"{self.scale:.3g} * B^{self.shape:.3g}",
            "saturating": f"{self.scale:.3g} / (1 + {self.shape:.4g} / B)",
            "surge": f"peak {self.scale:.3g} at B = {self.shape:.4g}",
        }[self.form]
        return f"{self.form}: {formula} (off by {math.expm1(self.deviation):.0%})"


@dataclasses.dataclass(frozen=True)
class LearningRateExponent:
    """The exponent of the best learning rate, and whether a power describes it.

    Attributes:
        exponent: The slope of log(rate) over log(batch size).
        interval: Its t interval.
        curves: The power and its two rivals, the closest first.
        doubts: Why not to rely on the exponent; empty if nothing is wrong.
    """

    exponent: float
    interval: Interval
    curves: tuple[LearningRateCurve, ...]
    doubts: tuple[str, ...]

    @property
    def rule(self) -> Literal["linear", "square_root", "none"] | None:
        """The one scaling rule whose exponent lies in the interval; None if none or several do."""
        rules: tuple[tuple[Literal["linear", "square_root", "none"], float], ...] = (
            ("linear", 1.0),
            ("square_root", 0.5),
            ("none", 0.0),
        )
        within = [name for name, exponent in rules if exponent in self.interval]
        return within[0] if len(within) == 1 else None

    def __str__(self) -> str:
        """For a table, e.g. "exponent 0.95 [0.81, 1.09]"."""
        doubts = f" (weak: {'; '.join(self.doubts)})" if self.doubts else ""
        return f"exponent {self.exponent:.3g} {self.interval}{doubts}"


def fit_learning_rate_exponent(
    batch_sizes: npt.ArrayLike,
    learning_rates: npt.ArrayLike,
    *,
    resolution_octaves: float = 0.0,
    level: float = 0.95,
) -> LearningRateExponent:
    """The exponent of the best learning rate, with its rivals.

    Args:
        batch_sizes: [n] batch sizes; a size may stand several times, once for each seed.
        learning_rates: [n] the best learning rate found for each. Only bracketed ones: a best rate
            on the edge of what was tried is a bound, not a measurement.
        resolution_octaves: Step of the grid on which the rates were searched, in factors of two. A
            rate is not known better than 1 / sqrt(12) of it, however well the grid's points fall
            on a line.
        level: Coverage of the interval.

    Raises:
        InputError: Fewer than 3 batch sizes, different lengths, values that are not > 0.
    """
    sizes = checked_array(batch_sizes, name="batch_sizes", at_least=FEWEST_SIZES)
    rates = checked_array(learning_rates, name="learning_rates", at_least=FEWEST_SIZES)
    check_same_length(batch_sizes=sizes, learning_rates=rates)
    if len(np.unique(sizes)) < FEWEST_SIZES:
        raise InputError(
            f"`batch_sizes` must hold at least {FEWEST_SIZES} distinct ones. Received: "
            f"{sorted(set(sizes.tolist()))}."
        )
    if not 0 <= resolution_octaves < math.inf:
        raise InputError(f"`resolution_octaves` must be >= 0. Received: {resolution_octaves}.")
    x, y = np.log(sizes), np.log(rates)
    power = _power(x, y)
    of_the_grid = resolution_octaves * math.log(2) / math.sqrt(12)
    spread = float(((x - x.mean()) ** 2).sum())
    half = quantile_of_t(len(x) - 2, level=level) * (power.deviation / math.sqrt(spread))
    exact = quantile_of_t(math.inf, level=level) * (of_the_grid / math.sqrt(spread))
    half = max(half, exact)
    interval = Interval(power.shape - half, power.shape + half, level)
    curves = sorted(
        (power, _turning("saturating", x, y), _turning("surge", x, y)),
        key=lambda curve: curve.deviation,
    )
    return LearningRateExponent(
        power.shape, interval, tuple(curves), tuple(_doubts(interval, power, curves[0]))
    )


def _doubts(interval: Interval, power: LearningRateCurve, best: LearningRateCurve) -> list[str]:
    doubts = []
    if 0.5 in interval and 1.0 in interval:
        doubts.append("the linear and the square-root rule both lie within: measure more sizes")
    if best.form != "power" and 2 * best.deviation < power.deviation:
        doubts.append(f"the rate bends: {best}")
    return doubts


def _power(x: Array, y: Array) -> LearningRateCurve:
    centered = x - x.mean()
    exponent = float(centered @ y / (centered @ centered))
    residuals = y - y.mean() - exponent * centered
    scale = math.exp(float(y.mean() - exponent * x.mean()))
    return LearningRateCurve("power", scale, exponent, _deviation(residuals))


def _turning(form: Literal["saturating", "surge"], x: Array, y: Array) -> LearningRateCurve:
    """The peak is a mean for each turning point; these are searched on a grid, refined thrice."""
    turns = np.linspace(x.min() - 5, x.max() + 5, _GRID)
    for _ in range(4):
        residuals = y - _bend(form, x - turns[:, None])
        means = residuals.mean(axis=1)
        squares = ((residuals - means[:, None]) ** 2).sum(axis=1)
        best = int(squares.argmin())
        found = turns[best], means[best], residuals[best] - means[best]
        turns = np.linspace(
            turns[max(best - 1, 0)], turns[min(best + 1, len(turns) - 1)], len(turns)
        )
    return LearningRateCurve(
        form, math.exp(float(found[1])), math.exp(float(found[0])), _deviation(found[2])
    )


def _bend(form: Literal["saturating", "surge"], beyond: Any) -> Any:
    """Log of rate / peak at log(batch size / turn)."""
    if form == "saturating":
        return -np.logaddexp(0, -beyond)
    return -np.logaddexp(beyond / 2, -beyond / 2) + math.log(2)


def _deviation(residuals: Array) -> float:
    return math.sqrt(float(residuals @ residuals) / (len(residuals) - 2))
