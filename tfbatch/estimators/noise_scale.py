"""The gradient noise scale from squared gradient norms at two batch sizes.

McCandlish, Kaplan, Amodei et al. 2018 (arXiv 1812.06162). The mean gradient of B examples has

    E|G_B|^2 = |G|^2 + tr(Sigma) / B

so that two batch sizes give |G|^2 and tr(Sigma), and their quotient is the simple noise scale: the
batch size at which the noise in the gradient is as large as the gradient.

Any squared norm will do: |P^(1/2) g|^2 gives tr(P Sigma) / G'PG, which is what matters to an
optimizer that divides its gradient (Adam: P = 1 / (sqrt(v) + epsilon)), and g'Hg gives the noise
scale tr(H Sigma) / G'HG of a loss with the Hessian H. The squared norms of single layers add up to
that of the model, and so do their |G|^2 and tr(Sigma); the noise scales do not.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval, Moments, interval_of_positive_ratio
from tfbatch.estimators.vectors import Array, check_positive, check_same_length, checked_array

FEWEST_PAIRS = 8
"""Below this many pairs the estimate is called weak, whatever its interval."""
WIDEST_RATIO = 4.0
"""An interval whose ends differ by more than this factor is called weak."""
MOST_PASSES = 8
"""Passes over a small data set after which another one tells next to nothing more."""
_FEWEST_PASSES = 5  # from so many on, what passes differ by is known well enough to be used


@dataclasses.dataclass(frozen=True)
class NoiseScale:
    """A gradient noise scale and how far to trust it.

    Attributes:
        noise_scale: tr(Sigma) / |G|^2 in examples; infinite if |G|^2 was not found to be > 0.
        interval: Fieller's interval of the noise scale of the POPULATION that the examples come
            from; without an upper end if |G|^2 may be 0.
        squared_gradient: |G|^2, unbiased, so that it can be negative.
        noise_trace: tr(Sigma) of single examples, unbiased, so that it can be negative.
        count: Number of measured pairs, or what a weighted mean of them is worth.
        doubts: Why not to rely on it; empty if nothing is wrong.
    """

    noise_scale: float
    interval: Interval
    squared_gradient: float
    noise_trace: float
    count: float
    doubts: tuple[str, ...]

    @property
    def low_confidence(self) -> bool:
        """Whether there is a reason not to rely on it."""
        return bool(self.doubts)

    def __str__(self) -> str:
        """For a table, e.g. "128 [96.5, 180]"."""
        doubts = f" (weak: {'; '.join(self.doubts)})" if self.doubts else ""
        return f"{self.noise_scale:.4g} {self.interval}{doubts}"


def squared_gradient_and_noise_trace(
    small_squares: npt.ArrayLike,
    large_squares: npt.ArrayLike,
    *,
    small_batch_size: int,
    large_batch_size: int,
) -> tuple[Array, Array]:
    """Unbiased |G|^2 and tr(Sigma) of each pair of squared norms.

        squared_gradient = (B * large - b * small) / (B - b)
        noise_trace = (small - large) / (1 / b - 1 / B)

    A single value may be negative: average both over many pairs before dividing, never clip one
    or average their quotient.

    Args:
        small_squares: Squared norms of mean gradients of `small_batch_size` examples. Any shape,
            e.g. [pairs] or [pairs, layers]. From k micro-batches: the mean of the k squared norms.
        large_squares: The same of `large_batch_size` examples, same shape.
        small_batch_size: b.
        large_batch_size: B. The two may be swapped together with the squares.

    Raises:
        InputError: Equal batch sizes, or ones below 1.
    """
    b, big = small_batch_size, large_batch_size
    if b == big or min(b, big) < 1:
        raise InputError(
            "The two batch sizes must differ and be >= 1: one size alone cannot tell the gradient "
            f"from its noise. Received: {small_batch_size=}, {large_batch_size=}."
        )
    small = np.asarray(small_squares, dtype=np.float64)
    large = np.asarray(large_squares, dtype=np.float64)
    squared_gradient = (big * large - b * small) / (big - b)
    noise_trace = (small - large) / (1 / b - 1 / big)
    return squared_gradient, noise_trace


def squared_gradient_of_data_set(
    squared_gradient: float, noise_trace: float, *, num_examples: int
) -> float:
    """|G|^2 of the finite data set itself, where batches were drawn without replacement.

    Such batches have E|G_B|^2 = |G|^2 + tr(Sigma) / B * (1 - B / N), with the n - 1 in Sigma. The
    two-size estimate then is exactly |G|^2 - tr(Sigma) / N: what the gradient of the population
    would be, not of the N examples at hand. This adds the difference.

    Args:
        squared_gradient: The two-size estimate.
        noise_trace: The two-size estimate; it is right as it is.
        num_examples: N.

    Raises:
        InputError: No examples.
    """
    check_positive(num_examples=num_examples)
    return squared_gradient + noise_trace / num_examples


def estimate_noise_scale(
    small_squares: npt.ArrayLike,
    large_squares: npt.ArrayLike,
    *,
    small_batch_size: int,
    large_batch_size: int,
    pairs_per_pass: int | None = None,
    level: float = 0.95,
) -> NoiseScale:
    """The noise scale from pairs of squared norms at the same weights.

    The interval is Fieller's: in simulations (3 to 2,000 dimensions, noise scales of 1/8 to 16
    times the larger batch, 5 to 100 pairs) it covered 92 to 98 %; the delete-one jackknife fell to
    56 % and the percentile bootstrap to 78 %.

    Pairs that reuse the same examples are not independent, however many there are. Within one
    pass over the data they are: their variance s is that of a pair, and a pass of m pairs has a
    mean of variance s / m. What is the same in every pass is not averaged away by more of them:

        variance(mean of E passes) = s / m - variance(between passes) * (1 - 1 / E)

    Below 5 passes the second term is too uncertain, and s / m is taken. For 256 to 2,048 examples
    that covered the population's value in 94 to 98 % (88 % at worst), independent pairs in 71 %
    (benchmarks/noise_scale_coverage.py).

    Args:
        small_squares: [pairs] squared norms of mean gradients of `small_batch_size` examples.
            From k micro-batches of one batch: the mean of the k squared norms.
        large_squares: [pairs] the same of `large_batch_size` examples.
        small_batch_size: b.
        large_batch_size: B.
        pairs_per_pass: Number m of consecutive pairs that share no example, after which the next m
            take the same examples in another order; None if no example is taken twice.
        level: Coverage of the interval.

    Raises:
        InputError: No pairs, different lengths, a squared norm that is negative or not finite,
            equal batch sizes, `pairs_per_pass` below 1.
    """
    check_positive(pairs_per_pass=1 if pairs_per_pass is None else pairs_per_pass)
    small = _squares(small_squares, "small_squares")
    large = _squares(large_squares, "large_squares")
    check_same_length(small_squares=small, large_squares=large)
    gradient, noise = squared_gradient_and_noise_trace(
        small, large, small_batch_size=small_batch_size, large_batch_size=large_batch_size
    )
    count = len(gradient)
    covariance, freedom = _covariance_of_means(np.stack([noise, gradient]), pairs_per_pass or count)
    moments = Moments(
        numerator=float(noise.mean()),
        denominator=float(gradient.mean()),
        numerator_variance=float(covariance[0, 0]),
        denominator_variance=float(covariance[1, 1]),
        covariance=float(covariance[0, 1]),
        freedom=freedom,
    )
    return noise_scale_from_moments(moments, count=count, level=level)


def _covariance_of_means(values: Array, pairs_per_pass: int) -> tuple[Array, int]:
    """Of the means of [2, pairs], as estimates of the population's, and its degrees of freedom."""
    count = values.shape[1]
    m = min(pairs_per_pass, count)
    if m == 1:  # one pair has no spread, and further ones have the same examples
        return np.full((2, 2), math.nan), 0
    passes = count // m
    whole = values[:, : passes * m].reshape(2, passes, m)
    means = whole.mean(axis=2)
    apart = (whole - means[:, :, None]).reshape(2, -1)
    of_a_pass = apart @ apart.T / (passes * (m - 1)) / m
    if passes < _FEWEST_PASSES:
        return of_a_pass, passes * (m - 1)
    between = np.cov(means)
    found = of_a_pass - between * (1 - 1 / passes)
    variances = np.maximum(np.diag(found), np.diag(between) / passes)
    most = math.sqrt(variances[0] * variances[1])
    covariance = float(np.clip(found[0, 1], -most, most))
    exact = np.array([[variances[0], covariance], [covariance, variances[1]]])
    return exact, min(passes, MOST_PASSES) - 1


def estimate_noise_scale_per_layer(
    small_squares: npt.ArrayLike,
    large_squares: npt.ArrayLike,
    *,
    small_batch_size: int,
    large_batch_size: int,
    pairs_per_pass: int | None = None,
    level: float = 0.95,
) -> tuple[NoiseScale, ...]:
    """The noise scale of each layer, from [pairs, layers] squared norms.

    The arguments are those of `estimate_noise_scale`. Sum over the layers for the whole model's.

    Raises:
        InputError: As `estimate_noise_scale`.
    """
    small = checked_array(small_squares, name="small_squares", dimensions=2, positive=False)
    large = checked_array(large_squares, name="large_squares", dimensions=2, positive=False)
    if small.shape != large.shape:
        raise InputError(
            "`small_squares` and `large_squares` must have the same shape [pairs, layers]. "
            f"Received: {small.shape} and {large.shape}."
        )
    return tuple(
        estimate_noise_scale(
            small[:, layer],
            large[:, layer],
            small_batch_size=small_batch_size,
            large_batch_size=large_batch_size,
            pairs_per_pass=pairs_per_pass,
            level=level,
        )
        for layer in range(small.shape[1])
    )


def noise_scale_from_moments(moments: Moments, *, count: float, level: float = 0.95) -> NoiseScale:
    """The noise scale from mean tr(Sigma) (numerator) and mean |G|^2 (denominator).

    Args:
        moments: The two means and how far they are known.
        count: What the means rest on, in pairs.
        level: Coverage of the interval.
    """
    noise, gradient = moments.numerator, moments.denominator
    interval = interval_of_positive_ratio(moments, level=level)
    ratio = max(noise, 0.0) / gradient if gradient > 0 else math.inf
    return NoiseScale(
        noise_scale=ratio,
        interval=interval,
        squared_gradient=gradient,
        noise_trace=noise,
        count=count,
        doubts=tuple(_doubts(noise, gradient, interval, count)),
    )


def _doubts(noise: float, gradient: float, interval: Interval, count: float) -> list[str]:
    doubts = []
    if count < FEWEST_PAIRS:
        doubts.append(f"{count:.3g} pairs, {FEWEST_PAIRS} are needed")
    if gradient <= 0 or not interval.bounded:
        doubts.append("the squared gradient is not told from 0: measure more or larger batches")
    elif noise <= 0 or interval.low <= 0:
        doubts.append("the noise is not told from 0: use a smaller small batch")
    elif interval.high > WIDEST_RATIO * interval.low:
        doubts.append(f"the ends of the interval differ by more than {WIDEST_RATIO:g} times")
    return doubts


def _squares(values: Any, name: str) -> Array:
    squares = checked_array(values, name=name, positive=False)
    if (squares < 0).any():
        raise InputError(f"`{name}` must be squared norms, >= 0. Received: {squares.min()}.")
    return squares
