"""Matrices with known spectra: ends, bounds, distinct eigenvalues, traces and their errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.estimators.hutchinson import estimate_trace
from tfbatch.estimators.lanczos import extreme_eigenvalues


def matrix(eigenvalues, seed=0):
    size = len(eigenvalues)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return (rotation * eigenvalues) @ rotation.T


def ends(eigenvalues, **options):
    h = matrix(np.asarray(eigenvalues, dtype=float))
    return extreme_eigenvalues(lambda v: h @ v, dimension=len(eigenvalues), **options)


@pytest.mark.parametrize(
    "eigenvalues",
    [
        np.linspace(1, 2, 40),
        np.geomspace(1e-6, 1e3, 40),
        np.linspace(-5, 1, 40),
        np.concatenate([np.linspace(-0.1, 0.1, 38), [3, 50]]),
    ],
    ids=["positive", "ill-conditioned", "mostly negative", "outliers"],
)
def test_all_products_give_the_exact_ends(eigenvalues):
    found = ends(eigenvalues, most_products=40, tolerance=0)

    scale = np.abs(eigenvalues).max()
    assert found.largest.value == pytest.approx(max(eigenvalues), abs=1e-9 * scale)
    assert found.smallest.value == pytest.approx(min(eigenvalues), abs=1e-9 * scale)
    assert found.converged


def test_largest_smallest_and_largest_in_magnitude_are_kept_apart():
    found = ends([-7, -1, 0, 2, 3], tolerance=0)

    assert found.largest.value == pytest.approx(3)
    assert found.smallest.value == pytest.approx(-7)
    assert found.largest_in_magnitude == found.smallest
    assert str(found) == f"from {found.smallest} to {found.largest}"


def test_as_many_products_as_distinct_eigenvalues_suffice():
    """As for conjugate gradients: 20 dimensions, 4 distinct eigenvalues."""
    found = ends([1.0] * 5 + [2.0] * 8 + [10.0] * 6 + [-3.0], tolerance=0)

    assert found.products == 4
    assert (found.largest.value, found.smallest.value) == pytest.approx((10, -3))


def test_a_few_products_find_the_outliers_of_a_large_matrix():
    """A Hessian in miniature: a bulk around 0 and some outliers. The matrix is diagonal."""
    eigenvalues = np.random.default_rng(0).normal(0, 0.1, 20_000)
    eigenvalues[:5] = [40, 20, 10, 5, -8]

    found = extreme_eigenvalues(lambda v: eigenvalues * v, dimension=20_000, most_products=20)

    assert found.products <= 20
    assert found.converged
    assert found.largest.value == pytest.approx(40, rel=1e-3)
    assert found.smallest.value == pytest.approx(-8, abs=0.05)


@pytest.mark.parametrize("products", [2, 4, 8, 16])
def test_an_eigenvalue_lies_within_every_error_bound(products):
    eigenvalues = np.sort(np.random.default_rng(1).normal(size=60))

    found = ends(eigenvalues, most_products=products, tolerance=0)

    for end in (found.largest, found.smallest, found.largest_in_magnitude):
        assert np.abs(eigenvalues - end.value).min() <= end.error_bound + 1e-12
    assert found.products == products
    assert not found.converged
    assert "not converged" in str(found)
    assert eigenvalues[0] <= found.smallest.value <= found.largest.value <= eigenvalues[-1]


def test_the_search_stops_when_both_bounds_are_met():
    loose, tight = (ends(np.geomspace(1, 1e3, 200), tolerance=t) for t in (0.05, 1e-6))

    assert loose.products < tight.products
    assert loose.converged
    assert loose.largest.error_bound <= 0.05 * loose.largest.value


def test_no_eigenvalue_is_found_twice():
    """Without reorthogonalisation the large one returns as a ghost and spoils the basis."""
    eigenvalues = np.concatenate([np.linspace(0, 1, 99), [1e6]])

    found = ends(eigenvalues, most_products=100, tolerance=0)

    assert found.largest.value == pytest.approx(1e6)
    assert found.smallest.value == pytest.approx(0, abs=1e-5)


def test_products_in_float32_are_good_enough():
    h = matrix(np.concatenate([np.linspace(-1, 1, 198), [30, -12]])).astype(np.float32)

    found = extreme_eigenvalues(lambda v: h @ v.astype(np.float32), dimension=200)

    assert found.largest.value == pytest.approx(30, rel=1e-3)
    assert found.smallest.value == pytest.approx(-12, rel=1e-2)
    assert found.asymmetry < 1e-5


@pytest.mark.parametrize("size", [1, 2])
def test_the_smallest_matrices(size):
    found = ends([3.0, -4.0][:size])

    assert found.largest.value == pytest.approx(3)
    assert found.smallest.value == pytest.approx([3.0, -4.0][size - 1])


def test_a_matrix_of_zeros_has_zero_ends():
    found = extreme_eigenvalues(np.zeros_like, dimension=7)

    assert (found.largest.value, found.smallest.value, found.products) == (0, 0, 1)


def test_a_matrix_that_is_not_symmetric_is_refused():
    h = np.random.default_rng(2).normal(size=(30, 30))

    with pytest.raises(InputError, match="must be symmetric"):
        extreme_eigenvalues(lambda v: h @ v, dimension=30)


def test_a_matrix_that_changes_between_products_is_refused():
    """Dropout, fresh examples or batch statistics."""
    random = np.random.default_rng(3)
    h = matrix(np.linspace(-1, 5, 30))

    with pytest.raises(InputError, match="the same at every product"):
        extreme_eigenvalues(lambda v: random.normal(1, 0.2) * (h @ v), dimension=30)


@pytest.mark.parametrize(
    "image", [np.ones(4), np.full(5, math.nan), np.ones((5, 1))], ids=["short", "nan", "matrix"]
)
def test_products_that_are_none_are_refused(image):
    with pytest.raises(InputError, match="finite vector of length 5"):
        extreme_eigenvalues(lambda v: image, dimension=5)
    with pytest.raises(InputError, match="finite vector of length 5"):
        estimate_trace(lambda v: image, dimension=5)


def test_numbers_below_one_are_refused():
    with pytest.raises(InputError, match="`dimension`"):
        extreme_eigenvalues(np.copy, dimension=0)
    with pytest.raises(InputError, match="`tolerance`"):
        extreme_eigenvalues(np.copy, dimension=3, tolerance=math.nan)
    with pytest.raises(InputError, match="`products` must be >= 2"):
        estimate_trace(np.copy, dimension=3, products=1)


# The trace.


def test_the_trace_of_a_diagonal_matrix_is_exact_at_once():
    diagonal = np.arange(1.0, 11)

    found = estimate_trace(lambda v: diagonal * v, dimension=10, products=2)

    assert found.trace == pytest.approx(55)
    assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_the_standard_error_is_that_of_the_theory():
    """Variance 2 (|H|_F^2 - sum of H_ii^2) for one product."""
    h = matrix(np.linspace(-2, 6, 50))
    theory = math.sqrt(2 * ((h**2).sum() - (np.diag(h) ** 2).sum()) / 4000)

    found = estimate_trace(lambda v: h @ v, dimension=50, products=4000)

    assert found.standard_error == pytest.approx(theory, rel=0.08)
    assert abs(found.trace - 100) < 5 * theory
    assert found.products == 4000


def test_the_interval_covers_the_trace():
    h = matrix(np.linspace(-2, 6, 50))
    covered = sum(
        100 in estimate_trace(lambda v: h @ v, dimension=50, products=10, seed=seed).interval
        for seed in range(600)
    )

    assert abs(covered / 600 - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 600)
