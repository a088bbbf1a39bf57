"""The size of the images: a known exponent, and best batch sizes that move with it or not."""

from __future__ import annotations

import math
import types

import keras
import numpy as np
import pytest

from tests.court_fixtures import SimulatedCourt, hashable, judged, noise_of
from tests.test_claims_changed_data import Arrays, Hashable
from tfbatch.claims import image_size
from tfbatch.claims._changed_data import DataChange
from tfbatch.claims._claim import UntestableError
from tfbatch.configuration import Configuration
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

CLAIM = "20-to-64-by-input-size"


class OfImages(SimulatedCourt):
    """Steps to the target have a critical size; an image's work, and its bytes, follow its side.

    sqrt(free * critical / work) is the best batch size: 64 examples cost as much as a step without
    any where the side is 1.
    """

    def __init__(self, *, work=0.0, critical=0.0, memory=2.0, noise=0.0, refuses=""):
        super().__init__(self.curve, num_examples=4096, smallest_margin=0.005, step=lambda size: 1)
        self.work, self.critical = work, critical
        self.memory, self.memory_noise, self.refuses = memory, noise, refuses
        self.measured = []

    def curve(self, training, examples):
        size, rate = hashable(training.configuration)
        side = training.change.image_scale if training.change else 1.0
        if training.change and self.refuses:
            raise UntestableError(self.refuses)
        far = abs(math.log2(rate / (0.05 * size / 32)))
        critical = 16 * side**self.critical
        noise = noise_of(training.seed, size, side).normal(0, 0.01)
        speed = 8 / (1 + 0.3 * far) / (1 + size / critical)
        return -np.exp(-speed * np.asarray(examples) / 20_000 * math.exp(noise))

    def step_times(self, batch_sizes, change=None):
        side = change.image_scale if change else 1.0
        self._step = lambda size: 1e-3 * (64 + size * side**self.work)
        return super().step_times(batch_sizes)

    def measure(self, function, configuration, *, sizes, change, attempt):
        assert function is image_size.bytes_of_an_example
        self.measured.append((change.image_scale, attempt))
        noise = noise_of(change.image_scale, attempt).normal(0, self.memory_noise)
        return 1e5 * change.image_scale**self.memory * math.exp(noise)


def word_of(part, **options):
    return judged(image_size, OfImages(**options))[CLAIM, part].word


def test_the_exponent_of_known_costs():
    assert image_size.exponent((0.5, 1.0, 1.5), [7 * s**1.7 for s in (0.5, 1, 1.5)]) == (
        pytest.approx(1.7)
    )


def test_memory_that_grows_with_the_area_holds_and_with_the_side_does_not():
    assert word_of("memory", memory=2.1, noise=0.02) == "HOLDS"
    assert word_of("memory", memory=1.0, noise=0.02) == "DOES NOT HOLD"
    assert word_of("memory", memory=2.0, noise=1.0) == "INCONCLUSIVE"


def test_each_image_size_is_measured_several_times():
    simulated = OfImages()
    list(image_size.collect(simulated))

    (*_, memory) = image_size.collect(simulated)

    assert "25, 100, 225 kB at 0.5, 1, 1.5 times the width" in memory.finding
    assert sorted(set(simulated.measured)) == [(s, n) for s in (0.5, 1.0, 1.5) for n in range(3)]


def test_a_best_size_that_falls_with_the_images_is_told_from_one_that_does_not():
    """Work that grows with the side to the power 4: 128 at half, 14 at one and a half times."""
    simulated = OfImages(work=4.0)
    evidence = {one.part: one for one in image_size.collect(simulated)}

    assert evidence["best size"].verdict("difference").word == "HOLDS"
    assert "32 at 1 times" in evidence["best size"].finding
    assert word_of("best size") == "DOES NOT HOLD"
    assert word_of("best size", critical=2.0) == "DOES NOT HOLD"  # it grows with the images


def test_data_that_is_no_images_is_told():
    evidence = {
        one.part: one for one in image_size.collect(OfImages(refuses="the inputs are no images"))
    }

    assert evidence["best size"].verdict("difference").word == "NOT TESTABLE HERE"
    assert evidence["best size"].untestable == "the inputs are no images"


def test_what_an_example_costs_is_the_slope_of_the_peaks(monkeypatch):
    """Peaks of 3 MB an example after 100 MB of their own."""
    seen, begun = [], []

    class Load:
        def __init__(self, programs, configuration, heartbeat, *, validate):
            seen.append(programs.workload.data.input_shape)

        def begin(self):
            assert not begun, "nothing is counted before the data is there"
            monkeypatch.setattr(
                image_size,
                "begin_peak_resident",
                lambda: begun.append("after the data was there"),
            )
            return 100

        def step(self, size):
            return 100_000_000 + 3_000_000 * size

        def finish(self):
            return None

    monkeypatch.setattr("tfbatch.largest_batch.training_load.TrainingLoad", Load)
    found = image_size.bytes_of_an_example(
        task_of(Arrays(shape=(8, 8, 1))),
        Configuration(batch_size=1, base_learning_rate=0.1),
        sizes=(4, 8, 16, 32),
        change=DataChange(image_scale=1.5),
        attempt=0,
    )

    assert found == pytest.approx(3e6)
    assert seen == [(12, 12, 1)]
    assert begun == ["after the data was there"]
    begun.clear()
    monkeypatch.setattr(Load, "step", lambda self, size: 100_000_000)
    with pytest.raises(UntestableError, match="memory is not seen to grow over batch sizes 4, 8"):
        image_size.bytes_of_an_example(
            task_of(Arrays(shape=(8, 8, 1))),
            Configuration(batch_size=1, base_learning_rate=0.1),
            sizes=(4, 8),
            change=DataChange(),
            attempt=0,
        )


def none():
    pass


def task_of(data):
    def build(input_shape, num_classes):
        return keras.Sequential([keras.Input(input_shape), keras.layers.Dense(num_classes)])

    programs = ProgramCache(Workload(data, build))
    return Hashable(
        types.SimpleNamespace(programs=programs, heartbeat=none, heartbeat_or_stop=none)
    )
