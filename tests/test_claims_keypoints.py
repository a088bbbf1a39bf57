"""X14: keypoints. AP and OKS by hand, and of detectors whose quality is known."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest

from tests.court_fixtures import SimulatedCourt, judged, noise_of
from tfbatch.claims import keypoints
from tfbatch.claims._claim import UntestableError
from tfbatch.claims.keypoints import (
    LARGE,
    SCATTER,
    SMALL,
    average_precision,
    average_precision_of,
    draw_scenes,
    heat_maps,
    located,
    similarity,
)

PART = ("large-helps-keypoints", "")


def test_similarity_by_hand():
    truth = np.zeros((1, 3, 2))
    said = np.array([[[0, 0], [3, 4], [0, 1]]])
    area = 50.0
    expected = (
        1 + math.exp(-25 / (2 * area * SCATTER**2)) + math.exp(-1 / (2 * area * SCATTER**2))
    ) / 3
    assert similarity(said, truth, [area]) == pytest.approx([expected])
    assert similarity(truth, truth, [area]) == [1.0]


def test_average_precision_by_hand():
    # Every threshold counts the first and the third as right: precision 1, 2/3 at recalls up to
    # 1/4 and 1/2, none beyond; of 101 recalls 26 are at most 1/4 and 51 at most 1/2.
    found = average_precision([1.0, 0.1, 1.0, 0.1], [0.9, 0.8, 0.7, 0.6])
    assert found == pytest.approx(100 * (26 + 25 * 2 / 3) / 101)
    # A precision that a higher recall has counts for the lower ones too, that of 0 included.
    assert average_precision([0.1, 1.0], [0.9, 0.8]) == pytest.approx(100 * 51 * 0.5 / 101)
    # Of ten thresholds 0.72 passes five: 0.50 to 0.70.
    assert average_precision([0.72, 0.72], [0.5, 0.6]) == pytest.approx(50)


def test_a_perfect_detector_has_all_points_and_a_blind_one_none():
    assert average_precision(np.ones(50), np.arange(50)) == pytest.approx(100)
    assert average_precision(np.zeros(50), np.arange(50)) == 0


def test_a_random_detector_is_near_its_expectation():
    # Where a share p is right whatever the score, precision is p at every recall up to p.
    shares = np.clip(1.2 - keypoints.THRESHOLDS, 0, 1)
    generator = np.random.default_rng(1)
    found = average_precision(generator.uniform(0.2, 1.2, 20_000), generator.random(20_000))
    assert found == pytest.approx(100 * (shares**2).mean(), rel=0.03)


def test_a_place_is_found_again_in_its_heat_map():
    scenes = draw_scenes(200, seed=1)
    maps = heat_maps(scenes.keypoints)
    places, scores = located(maps.astype(np.float64))

    assert maps.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.abs(places - scenes.keypoints).max() < 0.5
    similarities = similarity(places, scenes.keypoints, scenes.areas)
    assert average_precision(similarities, scores) > 95


def test_the_corners_of_a_scene_can_be_told_apart_and_lie_in_the_image():
    scenes = draw_scenes(300, seed=2)
    tip, right, left = np.moveaxis(scenes.keypoints, 1, 0)
    base = np.linalg.norm(right - left, axis=1)

    assert (np.linalg.norm(tip - right, axis=1) > base).all()
    assert (np.linalg.norm(tip - left, axis=1) > base).all()
    (a, b), (c, d) = (right - tip).T, (left - tip).T
    turns = a * d - b * c
    assert (np.sign(turns) == np.sign(turns[0])).all()
    assert scenes.keypoints.min() >= 0
    assert scenes.keypoints.max() <= scenes.images.shape[1] - 1
    np.testing.assert_array_equal(draw_scenes(300, seed=2).images, scenes.images)
    assert not np.array_equal(draw_scenes(300, seed=3).images, scenes.images)


class Court(SimulatedCourt):
    """AP is known: best at a rate of 0.1 times 2 to the `octaves`, with noise of the seed."""

    def __init__(self, *, gain, deviation=0.1, octaves=0, **options):
        super().__init__(**options)
        self.gain, self.deviation, self.octaves, self.asked = gain, deviation, octaves, []

    def measure_each(self, function, cases, *, seconds):
        assert function is average_precision_of
        self.asked += cases
        return [tuple(self._one(rate, **case) for rate in case["rates"]) for case in cases]

    def _one(self, rate, *, batch_size, seed, **more):
        far = abs(math.log2(rate / 0.1) - self.octaves)
        own = noise_of(batch_size, seed).normal(0, self.deviation)
        return 50 + (self.gain if batch_size == LARGE else 0) - far + own


def test_a_gain_beyond_the_margin_is_found_on_twenty_fresh_seeds():
    court = Court(gain=0.6)
    found = judged(keypoints, court)[PART]

    assert (found.word, found.pairs, found.margin) == ("HOLDS", 20, 0.3)
    judging = {case["seed"] for case in court.asked[-40:]}
    assert not judging & {case["seed"] for case in court.asked[:-40]}
    assert [case["rates"] for case in court.asked[-40:]] == [[0.1]] * 40


def test_no_gain_and_a_loss_are_called_so_and_noise_leaves_it_open():
    assert judged(keypoints, Court(gain=0.0))[PART].label == "negligible"
    assert judged(keypoints, Court(gain=-2.0))[PART].label == "reversed"
    noisy = judged(keypoints, Court(gain=0.3, deviation=2.0))[PART]
    assert noisy.word == "INCONCLUSIVE"
    assert noisy.detectable > 0.3


def test_a_rate_at_the_edge_of_what_was_tried_forbids_a_decision():
    court = Court(gain=0.6, octaves=12)
    found = judged(keypoints, court)[PART]

    assert found.word == "INCONCLUSIVE"
    assert f"the best rate at batch size {SMALL} is the highest that was tried" in found.reason


@pytest.mark.parametrize("after", [0, 2])
def test_a_measurement_that_lacks_memory_is_told_of_with_the_reason(after):
    """Whether it is the rates' or the judging seeds': two calls tune."""

    class WithoutMemory(Court):
        calls = 0

        def measure_each(self, function, cases, *, seconds):
            self.calls += 1
            if self.calls > after:
                raise UntestableError("no memory")
            return super().measure_each(function, cases, seconds=seconds)

    court = WithoutMemory(gain=0.6)
    found = judged(keypoints, court)[PART]
    assert (found.word, found.reason) == ("NOT TESTABLE HERE", "no memory")
    assert court.calls == after + 1


def test_a_network_learns_to_find_the_keypoints():
    task = types.SimpleNamespace(heartbeat_or_stop=lambda: None)
    size = {"batch_size": 16, "images": 128, "seed": 1}
    (untrained,) = average_precision_of(task, **size, epochs=0, rates=[0.1])
    trained, again = average_precision_of(task, **size, epochs=12, rates=[0.1, 0.1])
    assert trained == again
    assert untrained < 0.5
    assert trained > 2
