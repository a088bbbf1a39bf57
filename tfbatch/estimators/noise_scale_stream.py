"""The gradient noise scale of a running training: exponentially weighted, in constant memory."""

from __future__ import annotations

import dataclasses
import math

from tfbatch.errors import InputError
from tfbatch.estimators.interval import Moments
from tfbatch.estimators.noise_scale import (
    NoiseScale,
    noise_scale_from_moments,
    squared_gradient_and_noise_trace,
)


@dataclasses.dataclass(frozen=True)
class NoiseScaleStream:
    """Exponentially weighted sums over the pairs of squared norms seen so far.

    Numerator and denominator decay alike, so that the correction for the start cancels in their
    quotient. The products are kept too: they give the interval. A pair that makes |G|^2 negative
    counts like any other.

        stream = NoiseScaleStream(decay=0.99, small_batch_size=8, large_batch_size=64)
        for small_square, large_square in pairs:
            stream = stream.updated(small_square, large_square)
        print(stream.estimate())

    What is averaged does not depend on the two sizes, so that they may change between pairs
    (`resized`).

    The interval takes the pairs as independent, alike in spread, and the noise scale as constant
    over the memory of the average, about 2 / (1 - decay) pairs. Pairs of larger batches spread
    less: that long after a growth the interval is too wide, after a decrease too narrow.

    Attributes:
        decay: Factor by which a pair's weight falls with each new one, >= 0 and < 1. With 0 only
            the last pair counts, and the interval has no upper end.
        small_batch_size: b.
        large_batch_size: B.
        pairs: Number of pairs seen.
        weight: Sum of the weights.
        squared_weight: Sum of the squared weights.
        noise: Weighted sum of tr(Sigma).
        gradient: Weighted sum of |G|^2.
        noise_noise: Weighted sum of tr(Sigma)^2.
        gradient_gradient: Weighted sum of |G|^4.
        noise_gradient: Weighted sum of the product.
    """

    decay: float
    small_batch_size: int
    large_batch_size: int
    pairs: int = 0
    weight: float = 0.0
    squared_weight: float = 0.0
    noise: float = 0.0
    gradient: float = 0.0
    noise_noise: float = 0.0
    gradient_gradient: float = 0.0
    noise_gradient: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise InputError(f"`decay` must be >= 0 and < 1. Received: decay={self.decay}.")
        squared_gradient_and_noise_trace(  # refuses equal sizes before any work
            0.0,
            0.0,
            small_batch_size=self.small_batch_size,
            large_batch_size=self.large_batch_size,
        )

    def updated(self, small_square: float, large_square: float) -> NoiseScaleStream:
        """The stream with one more pair of squared norms.

        A pair that is not finite (a gradient that overflowed) is left out.
        """
        if not (math.isfinite(small_square) and math.isfinite(large_square)):
            return self
        gradients, noises = squared_gradient_and_noise_trace(
            small_square,
            large_square,
            small_batch_size=self.small_batch_size,
            large_batch_size=self.large_batch_size,
        )
        gradient, noise, decay = float(gradients), float(noises), self.decay
        return dataclasses.replace(
            self,
            pairs=self.pairs + 1,
            weight=decay * self.weight + 1,
            squared_weight=decay * decay * self.squared_weight + 1,
            noise=decay * self.noise + noise,
            gradient=decay * self.gradient + gradient,
            noise_noise=decay * self.noise_noise + noise * noise,
            gradient_gradient=decay * self.gradient_gradient + gradient * gradient,
            noise_gradient=decay * self.noise_gradient + noise * gradient,
        )

    def resized(self, *, small_batch_size: int, large_batch_size: int) -> NoiseScaleStream:
        """The stream whose next pairs are those of other batch sizes.

        Args:
            small_batch_size: b of the next pairs.
            large_batch_size: B of the next pairs.

        Raises:
            InputError: Equal batch sizes, or ones below 1.
        """
        return dataclasses.replace(
            self, small_batch_size=small_batch_size, large_batch_size=large_batch_size
        )

    def estimate(self, *, num_examples: int | None = None, level: float = 0.95) -> NoiseScale:
        """The noise scale now; its `count` is what the weights are worth in pairs.

        Args:
            num_examples: Number N of examples that the training passes over again and again: no
                more than N / B pairs are then taken as independent. None if none comes twice.
            level: Coverage of the interval.

        Raises:
            InputError: No pair was seen.
        """
        if not self.pairs:
            raise InputError("The stream has seen no pair of squared norms yet.")
        concentration = self.squared_weight / self.weight**2
        noise, gradient = self.noise / self.weight, self.gradient / self.weight
        # Variance of a weighted mean: the unbiased weighted variance times sum(weight^2).
        alike = 0.0 if num_examples is None else self.large_batch_size / num_examples
        shares = max(concentration, alike)
        # One pair, or one that outweighs all others (a decay of 0), shows no spread.
        factor = shares / (1 - concentration) if concentration < 1 else math.nan
        moments = Moments(
            numerator=noise,
            denominator=gradient,
            numerator_variance=factor * (self.noise_noise / self.weight - noise**2),
            denominator_variance=factor * (self.gradient_gradient / self.weight - gradient**2),
            covariance=factor * (self.noise_gradient / self.weight - noise * gradient),
            freedom=1 / concentration - 1,
        )
        return noise_scale_from_moments(moments, count=1 / concentration, level=level)
