"""Extreme eigenvalues of a symmetric matrix that is known by its products with vectors alone.

Lanczos's method with full reorthogonalisation, which keeps the basis orthogonal where the plain
method finds the same eigenvalue again and again (Paige 1971; Golub & Van Loan, chapter 10).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from scipy import linalg

from tfbatch.errors import InputError
from tfbatch.estimators.vectors import Array

Product = Callable[[Array], Array]
"""Takes and returns a float64 [dimension] vector: v to H v. It may compute in float32."""
_ASYMMETRIC = 1e-3
_BREAKDOWN = 1e-10


@dataclasses.dataclass(frozen=True)
class Eigenvalue:
    """An approximate eigenvalue.

    Attributes:
        value: The Ritz value.
        error_bound: An eigenvalue lies within this distance of it: the norm of the residual
            H x - value * x of its unit vector x. That it is the extreme one is not proven by it.
    """

    value: float
    error_bound: float

    def __str__(self) -> str:
        """For a table, e.g. "12.5 +- 0.01"."""
        return f"{self.value:.4g} +- {self.error_bound:.1g}"


@dataclasses.dataclass(frozen=True)
class ExtremeEigenvalues:
    """Both ends of a spectrum.

    Attributes:
        largest: The most positive eigenvalue: what bounds a stable learning rate.
        smallest: The most negative one: negative curvature, near a saddle.
        largest_in_magnitude: The one of the two that is farther from 0.
        products: Number of matrix-vector products.
        converged: Whether the error bounds of both ends meet the tolerance.
        asymmetry: Largest share of a product that a symmetric matrix would not have; rounding
            alone leaves about 1e-7 where the products are computed in float32.
    """

    largest: Eigenvalue
    smallest: Eigenvalue
    largest_in_magnitude: Eigenvalue
    products: int
    converged: bool
    asymmetry: float

    def __str__(self) -> str:
        """For a table."""
        state = "" if self.converged else " (not converged)"
        return f"from {self.smallest} to {self.largest}{state}"


def extreme_eigenvalues(
    product: Product,
    *,
    dimension: int,
    most_products: int = 30,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> ExtremeEigenvalues:
    """The largest and smallest eigenvalue of a symmetric matrix.

    Keeps `most_products` float64 vectors of `dimension` in memory. In 20 to 30 products the ends
    of a Hessian's spectrum are usually found to a per cent; the bound says whether they were. A
    start vector without a part in an eigenvector cannot find it: repeat with another seed.

    Args:
        product: v to H v, the same matrix at every call: fixed examples, no dropout, batch
            normalization in inference mode.
        dimension: Length of v.
        most_products: Most matrix-vector products.
        tolerance: Stop when both error bounds are below this share of the larger magnitude.
        seed: Of the random start vector.

    Raises:
        InputError: Numbers below 1, a product of another shape, one that is not finite, or a
            matrix that is not symmetric.
    """
    if min(dimension, most_products) < 1 or not tolerance >= 0:
        raise InputError(
            "`dimension` and `most_products` must be >= 1 and `tolerance` >= 0. Received: "
            f"{dimension=}, {most_products=}, {tolerance=}."
        )
    rest: Array = np.random.default_rng(seed).normal(size=dimension)
    basis = np.empty((min(most_products, dimension), dimension))
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    asymmetry = beta = 0.0
    for count in range(len(basis)):
        if count:
            off_diagonal.append(beta)
        basis[count] = rest / np.linalg.norm(rest)
        image = _checked(product(basis[count].copy()), dimension)
        overlaps, rest = _orthogonalised(basis[: count + 1], image)
        asymmetry = max(asymmetry, _asymmetry(overlaps, beta, image))
        diagonal.append(float(overlaps[count]))
        beta = float(np.linalg.norm(rest))
        ends = _ends(diagonal, off_diagonal, beta)
        scale = max(abs(end.value) for end in ends)
        exhausted = beta <= _BREAKDOWN * scale or count + 1 == dimension
        converged = exhausted or max(e.error_bound for e in ends) <= tolerance * scale
        if converged:
            break
    smallest, largest = ends
    return ExtremeEigenvalues(
        largest=largest,
        smallest=smallest,
        largest_in_magnitude=max(ends, key=lambda end: abs(end.value)),
        products=len(diagonal),
        converged=converged,
        asymmetry=asymmetry,
    )


def _orthogonalised(basis: Array, image: Array) -> tuple[Array, Array]:
    """Parts of the image in the basis, and what is left; twice is enough (Kahan, Parlett)."""
    overlaps = basis @ image
    rest = image - overlaps @ basis
    rest = rest - (basis @ rest) @ basis
    return overlaps, rest


def _asymmetry(overlaps: Array, beta: float, image: Array) -> float:
    """H v has no part in earlier vectors but the last, there beta; else H is not symmetric.

    Raises:
        InputError: It is not, by more than rounding explains.
    """
    size = float(np.linalg.norm(image))
    if len(overlaps) < 2 or size == 0:
        return 0.0
    unexpected = overlaps[:-1].copy()
    unexpected[-1] -= beta
    share = float(np.abs(unexpected).max()) / size
    if share > _ASYMMETRIC:
        raise InputError(
            "The matrix must be symmetric and the same at every product. Received products that "
            f"are not, by {share:.2g} of their size: fix the examples and switch dropout and "
            "batch statistics off."
        )
    return share


def _ends(
    diagonal: list[float], off_diagonal: list[float], beta: float
) -> tuple[Eigenvalue, Eigenvalue]:
    """Smallest and largest Ritz value; a residual is beta times its vector's last entry."""
    values, vectors = linalg.eigh_tridiagonal(np.array(diagonal), np.array(off_diagonal))
    bounds = beta * np.abs(vectors[-1])
    return (
        Eigenvalue(float(values[0]), float(bounds[0])),
        Eigenvalue(float(values[-1]), float(bounds[-1])),
    )


def _checked(image: Array, dimension: int) -> Array:
    image = np.asarray(image, dtype=np.float64)
    if image.shape != (dimension,) or not math.isfinite(float(image @ image)):
        raise InputError(
            f"A product must be a finite vector of length {dimension}. Received: shape "
            f"{image.shape}, {'finite' if np.isfinite(image).all() else 'not finite'}."
        )
    return image
