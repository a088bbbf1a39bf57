"""Known exponents, known bends, coverage, and isotropic regression where the best rate is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tfbatch.errors import InputError
from tfbatch.estimators.learning_rate_exponent import LearningRateCurve, fit_learning_rate_exponent
from tfbatch.scaling_rules import SCALING_RULES

SIZES = np.array([8.0, 32, 128, 512])


def noisy(random, rates, *, deviation=0.2):
    return rates * np.exp(random.normal(0, deviation, len(rates)))


@pytest.mark.parametrize(
    ("exponent", "rule"),
    [(1.0, "linear"), (0.5, "square_root"), (0.0, "none"), (0.75, None), (-0.5, None)],
)
def test_an_exact_power_is_found_and_named(exponent, rule):
    found = fit_learning_rate_exponent(SIZES, 0.003 * SIZES**exponent)

    assert found.exponent == pytest.approx(exponent, abs=1e-10)
    assert found.rule == rule
    power = next(curve for curve in found.curves if curve.form == "power")
    assert power.learning_rate(64) == pytest.approx(0.003 * 64**exponent)
    assert rule is None or rule in SCALING_RULES.names()


def test_the_interval_is_that_of_a_linear_regression():
    rates = noisy(np.random.default_rng(2), SIZES**0.8)

    found = fit_learning_rate_exponent(SIZES, rates)

    known = stats.linregress(np.log(SIZES), np.log(rates))
    half = stats.t.ppf(0.975, 2) * known.stderr
    assert found.exponent == pytest.approx(known.slope, rel=1e-10)
    assert found.interval.low == pytest.approx(known.slope - half, rel=1e-10)
    assert found.interval.high == pytest.approx(known.slope + half, rel=1e-10)


@pytest.mark.parametrize("form", ["saturating", "surge"])
def test_a_bend_is_found_and_told(form):
    true = LearningRateCurve(form, scale=0.4, shape=60.0, deviation=0.0)
    rates = [true.learning_rate(size) for size in SIZES]

    found = fit_learning_rate_exponent(SIZES, rates)

    assert found.curves[0].form == form
    assert found.curves[0].scale == pytest.approx(0.4, rel=1e-3)
    assert found.curves[0].shape == pytest.approx(60, rel=1e-3)
    assert f"the rate bends: {form}" in str(found)


def test_the_forms_at_their_turning_points():
    saturating = LearningRateCurve("saturating", 0.4, 60.0, 0.0)
    surge = LearningRateCurve("surge", 0.4, 60.0, 0.0)

    assert saturating.learning_rate(60) == pytest.approx(0.2)
    assert saturating.learning_rate(6e9) == pytest.approx(0.4)
    assert saturating.learning_rate(0.012) / saturating.learning_rate(0.006) == pytest.approx(
        2, rel=1e-3
    )
    assert surge.learning_rate(60) == pytest.approx(0.4)
    assert surge.learning_rate(30) == pytest.approx(surge.learning_rate(120))
    assert surge.learning_rate(0.04) / surge.learning_rate(0.01) == pytest.approx(2, rel=1e-2)


@pytest.mark.parametrize("seeds", [1, 5], ids=["four sizes", "five seeds each"])
def test_the_interval_covers_the_exponent(seeds):
    random = np.random.default_rng(0)
    sizes = np.repeat(SIZES, seeds)
    covered = sum(
        0.8 in fit_learning_rate_exponent(sizes, noisy(random, sizes**0.8)).interval
        for _ in range(400)
    )

    assert abs(covered / 400 - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 400)


def test_rates_from_a_coarse_grid_are_not_known_better_than_its_step():
    """Every best rate rounded to a power of two: the residuals can vanish by chance."""
    exact = fit_learning_rate_exponent(SIZES, 2.0 ** np.array([-9, -8, -7, -6]))
    coarse = fit_learning_rate_exponent(
        SIZES, 2.0 ** np.array([-9, -8, -7, -6]), resolution_octaves=1.0
    )

    assert exact.interval.high - exact.interval.low < 1e-10
    half = 1.959964 * math.log(2) / math.sqrt(12) / math.sqrt(5 * math.log(4) ** 2)
    assert coarse.interval.high - coarse.interval.low == pytest.approx(2 * half, rel=1e-5)


def test_the_grid_interval_covers_rates_that_were_rounded():
    """Center of the grid at random, step of one octave, no other noise; 600 repeats."""
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(600):
        shift = random.uniform(0, 1)
        exponent = random.uniform(0.3, 1.1)
        rates = 2 ** (np.round(exponent * np.log2(SIZES) + shift) - shift)
        found = fit_learning_rate_exponent(SIZES, rates, resolution_octaves=1.0)
        covered += exponent in found.interval

    assert covered / 600 > 0.93


def test_an_interval_that_holds_both_rules_says_so():
    found = fit_learning_rate_exponent([8, 32, 128], [0.01, 0.05, 0.06])

    assert found.rule is None
    assert "the linear and the square-root rule both lie within" in str(found)


def test_isotropic_regression_is_linear_below_its_dimensions_and_flat_above():
    """The best rate is B / (B + d + 1) (fresh Gaussian batches, no label noise), d = 49."""
    sizes = np.array([1, 4, 16, 64, 256, 1024, 4096])

    found = fit_learning_rate_exponent(sizes, sizes / (sizes + 50))

    assert found.curves[0].form == "saturating"
    assert found.curves[0].shape == pytest.approx(50, rel=1e-3)
    assert found.curves[0].scale == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("batch_size", [2, 20])
def test_one_step_of_isotropic_regression_contracts_as_the_theory_says(batch_size):
    """E|d'|^2 = (1 - 2 r + r^2 (1 + (d + 1) / B)) |d|^2, least at r = B / (B + d + 1)."""
    dimensions, count = 10, 20_000
    random = np.random.default_rng(batch_size)
    offset = np.ones(dimensions) / math.sqrt(dimensions)
    best = batch_size / (batch_size + dimensions + 1)
    x = random.normal(size=(count, batch_size, dimensions))
    gradients = np.einsum("cbd,cb->cd", x, x @ offset) / batch_size

    for rate in (0.5 * best, best):
        left = ((offset - rate * gradients) ** 2).sum(1)
        theory = 1 - 2 * rate + rate**2 * (1 + (dimensions + 1) / batch_size)
        assert abs(left.mean() - theory) < 5 * left.std() / math.sqrt(count)


@pytest.mark.parametrize(
    ("sizes", "rates", "options", "message"),
    [
        ([8, 16], [1, 2], {}, "length >= 3"),
        ([8, 8, 16], [1, 1, 2], {}, "at least 3 distinct"),
        ([8, 16, 32], [1, 2], {}, "length >= 3"),
        ([8, 16, 32], [1, 2, 0], {}, "`learning_rates` must be > 0"),
        ([8, 16, 32], [1, 2, 3], {"resolution_octaves": -1}, "`resolution_octaves`"),
    ],
)
def test_what_makes_no_exponent_is_refused(sizes, rates, options, message):
    with pytest.raises(InputError, match=message):
        fit_learning_rate_exponent(sizes, rates, **options)
