"""X18: batch normalization in a recurrent network."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_model
from contexts import context_of

from tests.court_fixtures import SimulatedCourt, judged, noise_of
from tfbatch.claims import recurrent_networks
from tfbatch.claims._small_training import seeded
from tfbatch.claims.recurrent_networks import (
    KINDS,
    accuracies_of,
    network,
    sequences_of,
    share_of_the_largest_class,
)
from tfbatch.errors import InputError
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

PART = ("normalization-has-limits", "recurrent")


def sequences(count=3, steps=4, features=2):
    return np.random.default_rng(1).normal(size=(count, steps, features)).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normalized(x, gain, axis, epsilon=1e-3):
    return gain * (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + epsilon)


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_that_of_a_gated_recurrent_unit_with_its_normalization(kind):
    x = sequences()
    with seeded(1):
        model = network(x, 3, kind=kind, units=5)
    into, state_layer, out = (layer for layer in model.layers if layer.weights)
    (from_inputs,), from_state = into.get_weights(), state_layer.add.get_weights()[0]
    kernel, bias = out.get_weights()

    added, state = x @ from_inputs, np.zeros((3, 5))
    if kind == "inputs":
        added = normalized(added, 1.0, (0, 1))
    for step in range(4):
        inputs, recurrent = added[:, step], state @ from_state
        if kind == "steps":
            inputs, recurrent = (normalized(v, 0.1, 0) for v in (inputs, recurrent))
        if kind == "layer":
            inputs, recurrent = (normalized(v, 1.0, 1) for v in (inputs, recurrent))
        update, reset, new = np.split(inputs, 3, axis=1)
        old_update, old_reset, old = np.split(recurrent, 3, axis=1)
        update, reset = sigmoid(update + old_update), sigmoid(reset + old_reset)
        state = update * state + (1 - update) * np.tanh(new + reset * old)
    np.testing.assert_allclose(model(x, training=True), state @ kernel + bias, atol=1e-5)


def test_only_batch_normalization_lets_an_example_depend_on_the_others():
    x = sequences()
    for kind in KINDS:
        with seeded(1):
            model = network(x, 3, kind=kind, units=5)
        alone, together = model(x[:2], training=True), model(x, training=True)[:2]
        same = np.allclose(alone, together, atol=1e-5)
        assert same == (kind in ("none", "layer")), kind


def test_rows_steps_and_tokens_are_read_as_sequences():
    assert sequences_of(np.zeros((5, 8, 6, 3), np.uint8)).shape == (5, 8, 18)
    assert sequences_of(np.zeros((5, 100, 6))).shape == (5, 64, 6)
    tokens = sequences_of(np.array([[3, 1], [0, 7]]))
    assert tokens.dtype == np.int32
    model = network(tokens, 3, kind="none", units=4)
    assert model(tokens).shape == (2, 3)
    with pytest.raises(InputError, match=r"the inputs have the shape \(2,\)"):
        sequences_of(np.array([[0.5, 1.0]]))


class Court(SimulatedCourt):
    """Accuracies are known: best at a rate of 0.1, with noise of the seed of 1 point."""

    def __init__(self, *, why="", chance=10.0, **accuracy):
        super().__init__()
        self.accuracy, self.why, self.chance, self.rates = accuracy, why, chance, {}

    def measure(self, function, *arguments, **options):
        assert function is share_of_the_largest_class
        return self.chance

    def measure_each(self, function, cases, *, seconds):
        assert function is accuracies_of
        if self.why:
            raise InputError(self.why)
        return [tuple(self._one(rate, **case) for rate in case["rates"]) for case in cases]

    def _one(self, rate, *, kind, seed, **more):
        if seed in self.seeds("verdict", 10):
            self.rates[kind] = rate
        far = abs(np.log2(rate / 0.1))
        own = noise_of(kind, seed).normal(0, 0.5)
        return float(self.accuracy[kind] - far + noise_of(seed).normal(0, 1) + own)


def test_batch_normalization_that_harms_in_every_form_holds():
    court = Court(none=90, inputs=85, steps=86, layer=91)
    found = judged(recurrent_networks, court)[PART]

    assert found.word == "HOLDS"
    assert found.estimate == pytest.approx(4, abs=0.8)
    assert set(court.rates.values()) == {0.1}
    assert found.margin > 0.5


def test_one_form_that_does_not_harm_is_enough_against_it():
    assert judged(recurrent_networks, Court(none=90, inputs=80, steps=90, layer=90))[PART].word == (
        "DOES NOT HOLD"
    )
    better = judged(recurrent_networks, Court(none=90, inputs=80, steps=95, layer=90))[PART]
    assert better.label == "reversed"


def test_networks_that_learn_nothing_tell_nothing_of_normalization():
    court = Court(none=50.2, inputs=50, steps=50, layer=50, chance=50.0)
    found = judged(recurrent_networks, court)[PART]

    assert found.word == "INCONCLUSIVE"
    assert "no network learns more than the largest class, 50.0 %" in found.reason


def test_what_is_no_sequence_is_told():
    found = judged(recurrent_networks, Court(why="the inputs have the shape (4,)"))[PART]

    assert (found.word, found.reason) == ("NOT TESTABLE HERE", "the inputs have the shape (4,)")


def test_the_digits_are_read_row_by_row(digits):
    task = context_of(ProgramCache(Workload(digits, tiny_model.build)))
    tf.random.set_seed(1)
    size = {"batch_size": 16, "units": 16, "epochs": 3, "most_examples": 500}
    learned, diverged = accuracies_of(task, kind="none", rates=[0.1, 1e6], seed=1, **size)
    assert learned > 50
    truth = np.concatenate([y for _, y in digits.evaluation("validation", batch_size=500)])[:500]
    assert share_of_the_largest_class(task, most_examples=500) == pytest.approx(
        100 * max(np.mean(truth == label) for label in range(10))
    )
    assert diverged < 30
