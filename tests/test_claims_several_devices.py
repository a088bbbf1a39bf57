"""X15: several devices. Two logical CPUs stand in for two accelerators."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from processes import run_warm

from tests.court_fixtures import SimulatedCourt, judged, noise_of
from tfbatch.claims import several_devices
from tfbatch.claims._batch_size_study import BatchSizeStudy
from tfbatch.claims._claim import UntestableError
from tfbatch.claims.several_devices import TwoDevices, efficiencies
from tfbatch.estimators.critical_batch_size import Hyperbola
from tfbatch.estimators.first_hit import StepsToTarget
from tfbatch.training.step_times import StepTime

DEVICES, SPEED, EQUALITY = (
    ("best-size-times-devices", part) for part in ("devices", "speed", "equality")
)


class Court(SimulatedCourt):
    """Updates to the target lie on a hyperbola, and what is measured of devices is known."""

    def __init__(self, *, critical, devices=1, gradient=1e-7, share=0.9, knee=72, **options):
        # 512 is slower for an example than 128.
        super().__init__(
            step=lambda size: (size + knee / 9) * (1.2 if size > 256 and knee < 512 else 1.0),
            **options,
        )
        self.devices, self.gradient, self.share = devices, gradient, share
        self.line = Hyperbola(100, critical)
        self.timed = []

    def measure(self, function, *arguments, **options):
        if function is several_devices.count_accelerators:
            return self.devices
        if function is several_devices.two_devices_against_one:
            return TwoDevices(self.gradient, 1e-6)
        assert function is several_devices.time_one_and_all
        self.timed.append(arguments[0].batch_size)
        noise = noise_of("rounds").normal(0, 0.01, options["rounds"])
        return tuple((self.share * float(np.exp(e)), 1.0) for e in noise)

    def updates(self, size, policy, purpose="verdict"):
        seeds = self.seeds(purpose, self.preset.count(purpose))
        return [
            StepsToTarget(size, self.line.steps(size) * np.exp(noise_of(seed).normal(0, 0.1)), True)
            for seed in seeds
        ]


@pytest.fixture(autouse=True)
def on_a_hyperbola(monkeypatch):
    monkeypatch.setattr(
        BatchSizeStudy, "updates_to_target", lambda self, *asked: self._court.updates(*asked)
    )
    monkeypatch.setattr(BatchSizeStudy, "doubts", lambda self, *asked, **more: ())
    monkeypatch.setattr(
        BatchSizeStudy, "rate", lambda self, *asked: type("Rate", (), {"value": 0.1})
    )


def knee(court):
    times = {one.batch_size: one for one in court.step_times(court.study.sizes)}
    return several_devices.knee_of(times).batch_size


@pytest.mark.parametrize(("seconds_of_512", "found"), [(1.02, 128), (0.9, None)])
def test_throughput_that_hardly_grows_has_its_knee_before(seconds_of_512, found):
    """The largest size may be the fastest by as little as no speed is counted by."""
    seconds = {8: 0.2, 32: 0.4, 128: 1.0, 512: 4 * seconds_of_512 / 1.04}
    times = {size: StepTime(size, each, (each,) * 15) for size, each in seconds.items()}

    if found:
        assert several_devices.knee_of(times).batch_size == found
    else:
        with pytest.raises(UntestableError, match="no knee yet"):
            several_devices.knee_of(times)


def test_the_efficiency_is_that_of_the_hyperbola():
    line = Hyperbola(100, 300)
    at_knee, together = ([np.log(line.examples(size))] for size in (32, 128))

    assert efficiencies(at_knee, together) == pytest.approx([(300 + 32) / (300 + 128)])


def test_efficient_devices_together_stay_efficient_below_the_critical_batch_size():
    court = Court(critical=1e4, num_examples=4096)
    found = judged(several_devices, court)
    size = knee(court)

    assert found[DEVICES].word == "HOLDS"
    assert found[DEVICES].estimate == pytest.approx((1e4 + size) / (1e4 + 4 * size) - 0.8)
    assert found[EQUALITY].word == "HOLDS"


def test_beyond_the_critical_batch_size_they_are_not_worth_their_number():
    court = Court(critical=50, num_examples=4096)
    found = judged(several_devices, court)
    size = knee(court)

    assert found[DEVICES].word == "DOES NOT HOLD"
    assert found[DEVICES].estimate == pytest.approx((50 + size) / (50 + 4 * size) - 0.8)
    (evidence,) = (one for one in several_devices.collect(court) if one.part == "devices")
    predicted = (50 + size) / (50 + 16 * size)
    assert f"16 devices at {size} each is predicted to be worth {predicted:.2f}" in evidence.finding


def test_the_speed_of_several_devices_takes_several():
    assert judged(several_devices, Court(critical=100, num_examples=4096))[SPEED].word == (
        "NOT TESTABLE HERE"
    )
    two = Court(critical=100, devices=2, num_examples=4096)
    assert judged(several_devices, two)[SPEED].word == "HOLDS"
    assert two.timed == [knee(two)]
    slow = Court(critical=100, devices=2, share=0.6, num_examples=4096)
    assert judged(several_devices, slow)[SPEED].word == "DOES NOT HOLD"


def test_what_cannot_be_measured_of_devices_is_told():
    few = judged(several_devices, Court(critical=100, num_examples=600))
    assert "600 training examples; take more data" in few[DEVICES].reason
    still_faster = judged(several_devices, Court(critical=100, knee=1e6, num_examples=4096))
    assert "there is no knee yet; an example of 4 devices at 512" in still_faster[DEVICES].reason
    assert f"worth {(100 + 512) / (100 + 4 * 512):.2f}" in still_faster[DEVICES].reason
    different = judged(several_devices, Court(critical=100, gradient=0.1, num_examples=4096))
    assert different[EQUALITY].word == "DOES NOT HOLD"


TWO_AND_ONE = """
    import dataclasses, json
    import keras
    import tensorflow as tf
    from tfbatch.training.devices import Place, claim_devices, make_strategy
    claim_devices(Place(strategy="mirrored", logical_cpus=2))
    import tiny_model
    from tfbatch.claims.several_devices import compare_devices, time_devices
    from tfbatch.configuration import Configuration
    from tfbatch.pipeline import load_data
    from tfbatch.training.workload import Workload

    def normalized(input_shape, num_classes):
        x = inputs = keras.Input(input_shape)
        x = keras.layers.BatchNormalization()(keras.layers.Flatten()(x))
        return keras.Model(inputs, keras.layers.Dense(num_classes)(x))

    data, strategy = load_data("digits"), make_strategy("mirrored")
    configuration = Configuration(batch_size=16, base_batch_size=16, base_learning_rate=0.1)
    found = {}
    for build in (tiny_model.build, normalized):
        one, several = Workload(data, build), Workload(data, build, strategy=strategy)
        difference = compare_devices(one, several, configuration, seed=1)
        found[build.__name__] = [difference.gradient, difference.training]
    found["times"] = time_devices(one, several, configuration, rounds=3, seconds=0.01)
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_devices_are_one_with_the_batch_of_both_unless_a_layer_sees_its_own_batch():
    folder = str(Path(tiny_model.__file__).parent)
    code = textwrap.dedent(TWO_AND_ONE)
    done = run_warm("-c", code, environment={"PYTHONPATH": folder})
    found = json.loads(done.stdout.splitlines()[-1])

    gradient, training = found["build"]
    assert 0 <= gradient < 1e-6
    assert 0 < training < 1e-4
    gradient, training = found["normalized"]
    assert gradient < 1e-6
    assert training > 1e-3
    assert np.shape(found["times"]) == (3, 2)
    assert np.min(found["times"]) > 0
