"""The study's search for rates, and what it cannot test: trainings by closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.court_fixtures import SimulatedCourt, hashable, judged, noise_of
from tfbatch.claims import steps_to_target


class FarRates(SimulatedCourt):
    """At a batch of 2 the best rate is so many octaves above the rule's, at all others at it."""

    def __init__(self, octaves, *, reach=1.0, **options):
        def curve(training, examples):
            size, rate = hashable(training.configuration)
            best = octaves if size <= 2 else 0
            far = math.log2(rate / (0.05 * size / 32)) - best
            speed = (reach if size <= 2 else 1.0) / (1 + 0.6 * far**2)
            loss = np.exp(-4 * speed * np.asarray(examples) / 20_000)
            return -loss + noise_of(training.seed).normal(0, 0.002)

        super().__init__(curve, step=lambda size: 1e-3 * (64 + size), **options)


@pytest.mark.parametrize("octaves", [-4, 0, 4])
def test_a_best_rate_beyond_the_first_octaves_is_found_where_none_of_them_reaches_the_target(
    octaves,
):
    simulated = FarRates(octaves)
    rate = simulated.study.rate(2, "tuned", "target")

    assert math.log2(rate.value / (0.05 * 2 / 32)) == pytest.approx(octaves, abs=0.01)
    assert (rate.doubts, rate.falls_short) == ((), "")
    found = judged(steps_to_target, simulated)
    assert found["too-small-never-converges", ""].word == "DOES NOT HOLD"


def test_a_rate_at_the_edge_forbids_what_is_said_of_success():
    found = judged(steps_to_target, FarRates(9))

    assert found["too-small-never-converges", ""].word == "INCONCLUSIVE"
    assert "highest that was tried" in found["too-small-never-converges", ""].reason


def test_a_size_that_falls_short_at_its_best_rate_never_converges():
    """Ten times slower at any rate: the search is closed, and that is the claim."""
    found = judged(steps_to_target, FarRates(0, reach=0.1))

    assert found["too-small-never-converges", ""].word == "HOLDS"
    assert "no rate reaches" in found["small-slow-but-better-in-use", "seconds"].reason


def test_where_every_rate_diverges_lower_ones_are_tried():
    def curve(training, examples):
        rate = training.configuration.base_learning_rate
        if rate > 0.05 / 2**4.5:
            return np.full(len(examples), -1.0)
        return -0.5 - 0.01 * math.log2(rate / (0.05 / 2**5)) ** 2 * np.ones(len(examples))

    rate = SimulatedCourt(curve).study.rate(32, "tuned", "epochs")
    assert rate.value == pytest.approx(0.05 / 2**5, rel=1e-3)
    dead = SimulatedCourt(lambda training, x: np.full(len(x), -1.0))
    assert "learns anything" in dead.study.rate(32, "tuned", "epochs").doubts[0]
