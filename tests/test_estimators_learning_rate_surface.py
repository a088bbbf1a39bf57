"""A surface is found again from its own points, and refused where the points do not show it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.estimators.learning_rate_surface import fit_surface

SIZES = (16, 32, 64, 128)
CURVATURE, START, SLOPE = 0.05, -7.0, 0.5


def value_at(size, octave):
    """On the surface's own scale, small is good; the best rate is 2 ** START * B ** SLOPE."""
    return -1.5 + 0.04 * math.log2(size / 32) ** 2 + CURVATURE * octave**2


SCORES = {
    "min": math.exp,  # a loss: its logarithm
    "max": lambda value: 1 / (1 + math.exp(value)),  # a share: its logit
}


def points(octaves=(-2, -1, 0, 1, 2), noise=0.0, direction="max"):
    generator = np.random.default_rng(0)
    sizes, rates, scores = [], [], []
    for size, octave in itertools.product(SIZES, octaves):
        sizes.append(size)
        rates.append(2.0 ** (START + SLOPE * math.log2(size) + octave))
        scores.append(SCORES[direction](value_at(size, octave) + noise * generator.normal()))
    return sizes, rates, scores


@pytest.mark.parametrize("direction", ["max", "min"])
def test_a_surface_without_noise_is_found_again(direction):
    sizes, rates, scores = points(direction=direction)
    found = fit_surface(sizes, rates, scores, direction=direction)
    predicted = found.predict(64, 2 * found.best_rate(64))

    assert found.exponent == pytest.approx(SLOPE)
    assert found.best_rate(64) == pytest.approx(2.0**START * 64**SLOPE)
    assert predicted.mean == pytest.approx(SCORES[direction](value_at(64, 1)))
    assert predicted.half_width == pytest.approx(0.0, abs=1e-9)
    assert found.trials == 20


@pytest.mark.parametrize("direction", ["max", "min"])
def test_a_score_that_is_no_share_and_no_positive_loss_is_taken_as_it_is(direction):
    sign = -1 if direction == "max" else 1
    sizes, rates, _ = points()
    octaves = itertools.product(SIZES, (-2, -1, 0, 1, 2))
    scores = [sign * (value_at(*place) - 1) for place in octaves]
    found = fit_surface(sizes, rates, scores, direction=direction)

    assert found.scale == "none"
    assert found.predict(64, found.best_rate(64)).mean == pytest.approx(
        sign * (value_at(64, 0) - 1)
    )


def test_its_interval_covers_what_a_further_training_gives():
    sizes, rates, scores = points(noise=0.05)
    found = fit_surface(sizes, rates, scores, direction="max")
    inside = 0
    generator = np.random.default_rng(1)
    for _ in range(200):
        size, octave = int(generator.choice(SIZES)), generator.uniform(-1, 1)
        truth = SCORES["max"](value_at(size, octave) + 0.05 * generator.normal())
        predicted = found.predict(size, 2.0 ** (START + SLOPE * math.log2(size) + octave))
        inside += predicted.low <= truth <= predicted.high

    assert 180 <= inside <= 200


def test_two_trials_of_most_batch_sizes_are_enough():
    """As a search leaves them: a level of its own for each size would take all of them up."""
    sizes, rates, scores = [], [], []
    tried = {8: (-1, 2), 16: (0, 0.5), 32: (-2, 1), 64: (-1, 0.5), 128: (-1.5, 0), 256: (-2, 1)}
    for size, octaves in tried.items():
        for octave in octaves:
            sizes.append(size)
            rates.append(2.0 ** (START + SLOPE * math.log2(size) + octave))
            scores.append(SCORES["max"](value_at(size, octave)))
    found = fit_surface(sizes, rates, scores, direction="max")

    assert found.exponent == pytest.approx(SLOPE)


def test_points_that_show_no_best_rate_are_refused():
    sizes, rates, scores = points()

    with pytest.raises(InputError, match="wrong sign"):
        fit_surface(sizes, rates, [1 - s for s in scores], direction="max")
    with pytest.raises(InputError, match=r"3 batch sizes and 9 trials. Received: 2 and 8"):
        fit_surface(sizes[:8], rates[:8], scores[:8], direction="max")
    with pytest.raises(InputError, match="differ too little"):
        fit_surface(sizes, [0.1] * 20, scores, direction="max")
    with pytest.raises(InputError, match="differ too little"):
        fit_surface(sizes, rates, [0.5] * 20, direction="max")
    with pytest.raises(InputError, match="must be a fitted one"):
        fit_surface(sizes, rates, scores, direction="max").predict(8, 0.1)
    with pytest.raises(InputError, match="learning_rate"):
        fit_surface(sizes, rates, scores, direction="max").predict(16, 0.0)
    with pytest.raises(InputError):
        fit_surface(sizes, [*rates[:-1], 0.0], scores, direction="max")
    with pytest.raises(InputError):
        fit_surface(sizes, rates, [*scores[:-1], math.nan], direction="max")


def test_a_training_that_learned_nothing_does_not_bend_it():
    """One of 21 at chance: the rest still tells the best rates and what they give."""
    sizes, rates, scores = points(noise=0.02)
    found = fit_surface([*sizes, 128], [*rates, 2.0], [*scores, 0.1], direction="max")

    assert found.exponent == pytest.approx(SLOPE, abs=0.1)
    assert found.predict(32, found.best_rate(32)).mean == pytest.approx(
        SCORES["max"](value_at(32, 0)), abs=0.01
    )
