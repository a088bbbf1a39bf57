"""The noise that is added to the full batch, against its trace, plain descent and plain SGD."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
import tiny_model
from contexts import context_of

from tests.court_fixtures import SimulatedCourt, judged, noise_of
from tfbatch.claims import injected_noise
from tfbatch.claims.extremes import model_and_examples, taken
from tfbatch.claims.injected_noise import descend_with_noise, noise_like
from tfbatch.configuration import Configuration
from tfbatch.gradients.loss import gradients_of
from tfbatch.schema import Named
from tfbatch.training.evaluation import evaluate
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

PLAIN = Configuration(
    batch_size=32,
    base_batch_size=32,
    base_learning_rate=0.05,
    optimizer=Named(name="sgd", momentum=0.0),
)


@pytest.fixture(scope="module")
def task(digits):
    return context_of(ProgramCache(Workload(digits, tiny_model.build)))


def test_the_noise_is_as_large_as_that_of_the_batch_alike_in_all_directions_and_without_mean():
    full = [tf.constant([1.0, 2.0]), tf.zeros([3, 2])]
    batch = [tf.constant([4.0, -2.0]), tf.zeros([3, 2])]  # 25 of squared distance, 8 weights

    @tf.function
    def drawn(keys):
        def joined(key):
            return tf.concat([tf.reshape(part, [-1]) for part in noise_like(batch, full, key)], 0)

        return tf.map_fn(joined, keys, fn_output_signature=tf.float32)

    draws = drawn(tf.constant([[7, number] for number in range(2000)])).numpy()
    error = 5 * math.sqrt(2 / 2000)  # of a mean square, relative
    assert (draws**2).mean(axis=0) == pytest.approx(25 / 8, rel=error)
    assert draws.mean(axis=0) == pytest.approx(0.0, abs=5 * math.sqrt(25 / 8 / 2000))
    correlations = np.corrcoef(draws.T) - np.eye(8)
    assert np.abs(correlations).max() < 5 / math.sqrt(2000)


def test_without_noise_it_is_plain_descent_and_with_its_own_batches_plain_sgd(task):
    arms = (injected_noise._BATCH, injected_noise._NOISE, injected_noise._NONE)
    options = {"updates": 2, "seed": 1, "metric": "loss"}
    sgd, noisy, none = descend_with_noise(task, PLAIN, arms=arms, **options)

    by_hand = []
    for whole in (False, True):
        model, examples = model_and_examples(task, PLAIN, seed=1)
        count = min(512, len(examples[-1]))
        generator = np.random.default_rng(1)
        for _ in range(2):
            order = generator.permutation(count)
            chosen = np.arange(count) if whole else order[:32]
            gradients = gradients_of(model, taken(examples, chosen), training=False)
            for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
                variable.assign_sub(0.05 * gradient)
        by_hand.append(evaluate(model, task.programs.workload, "validation")["loss"])
    assert (sgd, none) == pytest.approx(tuple(by_hand), rel=1e-4)
    assert noisy != pytest.approx(none, rel=1e-4)


def court_of(value, *, deviation=0.01):
    """The loss of an arm at some multiple of the rate, and what is drawn for each."""

    def curve(training, examples):
        size, rate = training.configuration.batch_size, training.configuration.base_learning_rate
        far = math.log2(rate / (0.05 * size / 32))
        drawn = noise_of(training.seed).normal(0, deviation)
        return np.full(len(examples), -0.3 - 0.1 * far**2 + drawn)

    def measure_each(function, cases, *, seconds, examples):
        assert function is descend_with_noise
        size, updates = cases[0]["configuration"].batch_size, cases[0]["updates"]
        assert examples >= 4 * updates * (512 + size)  # four arms
        return [
            tuple(
                value(arm, case["configuration"].base_learning_rate / 0.05)
                + noise_of(case["seed"]).normal(0, deviation)
                + noise_of(case["seed"], arm, str(case["configuration"])).normal(0, deviation)
                for arm in case["arms"]
            )
            for case in cases
        ]

    court = SimulatedCourt(curve)
    court.measure_each = measure_each
    return court


def words(value):
    found = judged(injected_noise, court_of(value))
    assert len(found) == 2
    return {verdict.word for verdict in found.values()}


def test_noise_helps_only_where_no_rate_without_it_does_as_well():
    assert words(lambda arm, rate: 0.3 if arm[0] or arm[1] else 0.6) == {"HOLDS"}
    assert words(lambda arm, rate: 0.3 if arm[0] or arm[1] == 4 else 0.6) == {"HOLDS"}
    assert "HOLDS" not in words(lambda arm, rate: 0.3 if arm[1] or rate > 1 else 0.6)
    assert "HOLDS" not in words(lambda arm, rate: 0.3 if arm[1] or rate < 1 else 0.6)
    assert words(lambda arm, rate: 0.6 if arm[1] else 0.3) == {"DOES NOT HOLD"}
    assert "HOLDS" not in words(lambda arm, rate: 0.3)


def test_noise_is_tried_at_the_rates_of_what_has_none():
    assert words(lambda arm, rate: 0.3 if rate < 1 and any(arm) else 0.6) == {"HOLDS"}
    found = judged(injected_noise, court_of(lambda arm, rate: 0.3 if rate < 1 else 0.6))
    assert "reversed" not in {verdict.label for verdict in found.values()}


def test_noise_that_does_not_do_what_that_of_batches_does_is_no_stand_in_for_it():
    assert words(lambda arm, rate: 0.3 if arm[0] else 0.6) == {"INCONCLUSIVE"}
    assert words(lambda arm, rate: 0.3 if arm[1] else 0.6) == {"INCONCLUSIVE"}


def test_a_descent_that_diverged_is_worth_the_untrained_model():
    court = court_of(lambda arm, rate: math.nan if arm[1] else 1e9)
    (first, _) = injected_noise.collect(court)

    assert first.effects == (0.0,) * 10


def test_a_batch_that_is_all_of_the_examples_has_no_noise_to_add():
    court = SimulatedCourt(
        lambda training, examples: -1 + 1e-5 * np.asarray(examples), num_examples=32
    )
    found = judged(injected_noise, court)

    assert {verdict.word for verdict in found.values()} == {"NOT TESTABLE HERE"}
