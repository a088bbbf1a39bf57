"""Closed forms against brute force; every optimum is one; efficiency, goodput and gain."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize

from tfbatch.errors import InputError
from tfbatch.estimators.critical_batch_size import Hyperbola
from tfbatch.estimators.statistical_efficiency import (
    adascale_gain,
    goodput,
    statistical_efficiency,
)
from tfbatch.estimators.step_time import StepTimeFit
from tfbatch.estimators.time_to_target import (
    predict_fastest_batch_size,
    predict_seconds,
)

CURVE = Hyperbola(min_steps=500, critical_batch_size=400)


def step_time(fixed=0.01, each=0.001, form="affine", *, fits=True):
    return StepTimeFit(form, fixed, each, misfit=0.01, fits=fits, smallest=1, largest=10**9)


def test_the_fastest_size_of_an_affine_step_time_in_closed_form():
    """sqrt(0.01 * 400 / 0.0001) = 200; 500 (sqrt(0.01) + sqrt(0.04))^2 = 45 s."""
    found = predict_fastest_batch_size(CURVE, step_time(each=0.0001), largest=10**6)

    assert (found.batch_size, found.limited_by) == (200, "noise")
    assert found.seconds == pytest.approx(45, rel=1e-10)
    assert found.steps == pytest.approx(500 * 3)
    assert found.examples == pytest.approx(500 * 3 * 200)


def test_the_fastest_size_of_a_saturating_step_time_is_where_the_device_is_full():
    found = predict_fastest_batch_size(CURVE, step_time(0.0096, 0.0001, "saturating"), largest=9999)

    assert (found.batch_size, found.limited_by) == (96, "noise")
    assert found.seconds == pytest.approx(500 * (1 + 400 / 96) * 0.0096)


@pytest.mark.parametrize("form", ["affine", "saturating"])
def test_no_other_size_is_faster_and_the_tied_ones_are_all_found(form):
    random = np.random.default_rng(0)
    for _ in range(40):
        curve = Hyperbola(10 ** random.uniform(1, 4), 10 ** random.uniform(0, 3))
        times = step_time(10 ** random.uniform(-3, 0), 10 ** random.uniform(-4, -2), form)
        largest = int(random.integers(1, 1500))
        sizes = np.arange(1, largest + 1)
        seconds = np.array([predict_seconds(curve, times, batch_size=b) for b in sizes])

        found = predict_fastest_batch_size(curve, times, largest=largest)

        assert found.seconds == pytest.approx(seconds.min(), rel=1e-9)
        tied = sizes[seconds <= 1.05 * found.seconds * (1 + 1e-12)]
        assert abs(found.as_fast_from - tied[0]) <= 1
        assert abs(found.as_fast_to - tied[-1]) <= 1


def test_memory_below_the_optimum_becomes_the_answer():
    found = predict_fastest_batch_size(CURVE, step_time(each=0.0001), largest=100)

    assert (found.batch_size, found.limited_by, found.as_fast_to) == (100, "memory", 100)
    assert "limited by memory" in str(found)
    assert str(found).startswith("predicted: ")


def test_a_step_without_a_fixed_cost_wants_one_example():
    found = predict_fastest_batch_size(CURVE, step_time(fixed=0.0), largest=1000)

    assert (found.batch_size, found.limited_by) == (1, "one example")
    assert found.as_fast_to == pytest.approx(0.05 * 400, abs=2)


@pytest.mark.parametrize("form", ["affine", "saturating"])
def test_examples_that_cost_nothing_want_all_the_memory(form):
    found = predict_fastest_batch_size(CURVE, step_time(each=0.0, form=form), largest=777)

    assert (found.batch_size, found.limited_by, found.as_fast_to) == (777, "memory", 777)


def test_nothing_is_predicted_from_a_step_time_that_does_not_fit():
    times = step_time(fits=False)

    for predict in (
        lambda: predict_seconds(CURVE, times, batch_size=8),
        lambda: predict_fastest_batch_size(CURVE, times, largest=100),
    ):
        with pytest.raises(InputError, match="does not fit its form"):
            predict()


def test_impossible_sizes_and_curves_are_refused():
    with pytest.raises(InputError, match="`largest` must be >= 1"):
        predict_fastest_batch_size(CURVE, step_time(), largest=0)
    with pytest.raises(InputError, match="`batch_size` must be > 0"):
        predict_seconds(CURVE, step_time(), batch_size=0)
    with pytest.raises(InputError, match="`min_steps` must be > 0"):
        Hyperbola(0, 10)


# Efficiency.


def test_the_base_batch_size_has_an_efficiency_of_one():
    assert statistical_efficiency(64, base_batch_size=64, noise_scale=10) == 1
    assert statistical_efficiency(190, base_batch_size=10, noise_scale=50) == pytest.approx(0.25)


def test_efficiency_does_not_depend_on_the_unit_of_the_batch_size():
    """It is a quotient: a product of the two sizes in its place would scale."""
    once = statistical_efficiency(256, base_batch_size=32, noise_scale=100)
    tenfold = statistical_efficiency(2560, base_batch_size=320, noise_scale=1000)

    assert once == pytest.approx(tenfold, rel=1e-12)


def test_goodput_is_largest_at_the_root_of_a_noise_over_b():
    fixed, each, noise = 0.02, 0.0005, 90.0

    def loss(log_size):
        size = math.exp(log_size)
        return -goodput(
            size, step_seconds=fixed + each * size, base_batch_size=16, noise_scale=noise
        )

    best = math.exp(optimize.minimize_scalar(loss, bounds=(0, 12), method="bounded").x)
    assert best == pytest.approx(math.sqrt(fixed * noise / each), rel=1e-3)


@pytest.mark.parametrize(
    ("noise_scale", "gain"), [(1e12, 8), (1e-12, 1), (64, 8 * 2 / (1 + 8))], ids=str
)
def test_the_gain_lies_between_one_and_the_scale(noise_scale, gain):
    assert adascale_gain(8, base_batch_size=64, noise_scale=noise_scale) == pytest.approx(gain)


def test_the_gain_is_that_of_the_paper():
    """(variance + square) / (variance / scale + square), tr(Sigma) = 30, |G|^2 = 0.5, base 16."""
    variance, square = 30 / 16, 0.5

    gain = adascale_gain(4, base_batch_size=16, noise_scale=30 / 0.5)

    assert gain == pytest.approx((variance + square) / (variance / 4 + square), rel=1e-12)


def test_the_gain_is_the_quotient_of_the_steps():
    """With the noise scale for critical batch size: S(B) / S(s B)."""
    curve = Hyperbola(1, 60)

    gain = adascale_gain(4, base_batch_size=16, noise_scale=60)

    assert gain == pytest.approx(curve.steps(16) / curve.steps(64), rel=1e-12)


@pytest.mark.parametrize("name", ["base_batch_size", "noise_scale"])
def test_numbers_that_are_not_positive_are_refused(name):
    arguments = {"base_batch_size": 8, "noise_scale": 8.0} | {name: 0}

    with pytest.raises(InputError, match=f"`{name}` must be > 0"):
        statistical_efficiency(8, **arguments)
    with pytest.raises(InputError, match="must be > 0"):
        adascale_gain(8, **arguments)
    with pytest.raises(InputError, match="`step_seconds`"):
        goodput(8, step_seconds=0, base_batch_size=8, noise_scale=8)
