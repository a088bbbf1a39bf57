"""A surface is found again from its own points, and refused where the points do not show it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.estimators.learning_rate_surface import fit_surface

SIZES = (16, 32, 64, 128)
CURVATURE, START, SLOPE = 0.02, -7.0, 0.5


def points(octaves=(-2, -1, 0, 1, 2), noise=0.0):
    """Accuracies with their best rate at 2 ** START * B ** SLOPE."""
    generator = np.random.default_rng(0)
    sizes, rates, scores = [], [], []
    for size, octave in itertools.product(SIZES, octaves):
        sizes.append(size)
        rates.append(2.0 ** (START + SLOPE * math.log2(size) + octave))
        level = 0.8 - 0.01 * math.log2(size)
        scores.append(level - CURVATURE * octave**2 + noise * generator.normal())
    return sizes, rates, scores


@pytest.mark.parametrize("direction", ["max", "min"])
def test_a_surface_without_noise_is_found_again(direction):
    sizes, rates, scores = points()
    sign = 1 if direction == "max" else -1
    found = fit_surface(sizes, rates, [sign * s for s in scores], direction=direction)
    predicted = found.predict(64, 2 * found.best_rate(64))

    assert found.exponent == pytest.approx(SLOPE)
    assert found.best_rate(64) == pytest.approx(2.0**START * 64**SLOPE)
    assert sign * predicted.mean == pytest.approx(0.8 - 0.06 - CURVATURE)
    assert predicted.half_width == pytest.approx(0.0, abs=1e-9)
    assert found.trials == 20


def test_its_interval_covers_what_a_further_training_gives():
    sizes, rates, scores = points(noise=0.005)
    found = fit_surface(sizes, rates, scores, direction="max")
    inside = 0
    generator = np.random.default_rng(1)
    for _ in range(200):
        size = int(generator.choice(SIZES))
        octave = generator.uniform(-2, 2)
        truth = 0.8 - 0.01 * math.log2(size) - CURVATURE * octave**2
        predicted = found.predict(size, 2.0 ** (START + SLOPE * math.log2(size) + octave))
        inside += abs(truth + 0.005 * generator.normal() - predicted.mean) <= predicted.half_width

    assert 180 <= inside <= 199


def test_points_that_show_no_best_rate_are_refused():
    sizes, rates, scores = points()

    with pytest.raises(InputError, match="wrong sign"):
        fit_surface(sizes, rates, [-s for s in scores], direction="max")
    with pytest.raises(InputError, match="A surface needs"):
        fit_surface(sizes[:5], rates[:5], scores[:5], direction="max")
    with pytest.raises(InputError, match="differ too little"):
        fit_surface(sizes, [0.1] * 20, scores, direction="max")
    with pytest.raises(InputError, match="must be a fitted one"):
        fit_surface(sizes, rates, scores, direction="max").predict(8, 0.1)
    with pytest.raises(InputError):
        fit_surface(sizes, [*rates[:-1], 0.0], scores, direction="max")


def test_rates_far_from_the_best_do_not_bend_it():
    sizes, rates, scores = points()
    far = fit_surface([*sizes, 16], [*rates, 1e-7], [*scores, 0.1], direction="max")

    assert far.trials == 20
    assert far.exponent == pytest.approx(SLOPE)
