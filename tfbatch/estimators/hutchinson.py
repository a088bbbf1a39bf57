"""The trace of a matrix that is known by its products with vectors alone (Hutchinson 1989)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval, mean_and_deviation, quantile_of_t
from tfbatch.estimators.lanczos import Product


@dataclasses.dataclass(frozen=True)
class Trace:
    """An estimated trace.

    Attributes:
        trace: Unbiased estimate.
        standard_error: Its standard error.
        interval: Its t interval.
        products: Number of matrix-vector products.
    """

    trace: float
    standard_error: float
    interval: Interval
    products: int

    def __str__(self) -> str:
        """For a table, e.g. "120 [110, 130]"."""
        return f"{self.trace:.4g} {self.interval}"


def estimate_trace(
    product: Product, *, dimension: int, products: int = 30, level: float = 0.95, seed: int = 0
) -> Trace:
    """The trace as the mean of z'Hz over random signs z.

    Its variance for one z is 2 (|H|_F^2 - sum of H_ii^2): a diagonal matrix is exact at once.

    Args:
        product: v to H v.
        dimension: Length of v.
        products: Number of products, at least 2.
        level: Coverage of the interval.
        seed: Of the random signs.

    Raises:
        InputError: Fewer than two products, a dimension below 1, a product that is not finite or
            of another shape.
    """
    if products < 2 or dimension < 1:
        raise InputError(
            "`products` must be >= 2, for a standard error, and `dimension` >= 1. Received: "
            f"{products=}, {dimension=}."
        )
    random = np.random.default_rng(seed)
    values = []
    for _ in range(products):
        signs = np.where(random.integers(0, 2, dimension) == 1, 1.0, -1.0)
        image = np.asarray(product(signs), dtype=np.float64)
        if image.shape != (dimension,) or not np.isfinite(image).all():
            raise InputError(
                f"A product must be a finite vector of length {dimension}. Received: shape "
                f"{image.shape}, {'finite' if np.isfinite(image).all() else 'not finite'}."
            )
        values.append(float(signs @ image))
    mean, deviation = mean_and_deviation(values)
    error = deviation / math.sqrt(products)
    half = quantile_of_t(products - 1, level=level) * error
    return Trace(mean, error, Interval(mean - half, mean + half, level), products)
