"""What cards measure in the process that trains, on the digits and a small model."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_model
from contexts import context_of

import tfbatch
from tfbatch.claims._flat_weights import FlatLoss, joined
from tfbatch.claims._session import time_steps
from tfbatch.claims.accumulated_batches import train_both_ways
from tfbatch.claims.alignment import time_addresses
from tfbatch.claims.error_surface import error_of_an_update, residual_of_a_neuron
from tfbatch.claims.extremes import (
    descents_after_training,
    full_against_parts,
    model_and_examples,
)
from tfbatch.claims.gradient_noise import SHARES, _measure, gradient_noise_during
from tfbatch.claims.redundancy import cost_of_copies
from tfbatch.claims.same_budget import operations_per_example
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

PLAIN = Configuration(batch_size=32, base_batch_size=32, base_learning_rate=0.05)


@pytest.fixture(scope="module")
def task(digits):
    return context_of(ProgramCache(Workload(digits, tiny_model.build)))


def test_a_batch_of_all_examples_has_the_gradient_of_its_parts(task):
    assert 0 < full_against_parts(task, PLAIN) < 1e-5


def test_operations_of_an_example_do_not_depend_on_the_batch(task):
    one, other = operations_per_example(task, PLAIN, (8, 64))

    # Two dense layers, 64 to 16 and 16 to 10, forwards and for the weights' gradients.
    assert one > 2 * 2 * (64 * 16 + 16 * 10)
    assert one == pytest.approx(other, rel=0.02)


@pytest.mark.slow
def test_the_distance_to_the_full_gradient_falls_with_the_batch(task):
    states = gradient_noise_during(task, PLAIN, (4, 32, 256), seed=1, examples=2000)

    assert len(states) == len(SHARES)
    for state in states:
        examples = task.programs.workload.data.num_examples("train")
        assert state.slope(examples) == pytest.approx(-1, abs=0.3)
        assert list(state.alignments) == sorted(state.alignments)
        assert state.noise_share(4) > state.noise_share(256)
    assert states[-1].noise_scale(examples) > 1


@pytest.mark.slow
def test_accumulation_trains_as_the_large_batch(task):
    at_64 = PLAIN.model_copy(update={"batch_size": 64})
    parts, whole = train_both_ways(
        task, at_64, micro_batch_size=16, examples=1000, seed=1, metric="loss"
    )
    assert parts == pytest.approx(whole, rel=1e-4)


@pytest.mark.slow
def test_small_steps_of_the_full_batch_always_descend(task):
    found = descents_after_training(
        task,
        PLAIN.model_copy(update={"batch_size": 2, "base_learning_rate": 0.05}),
        trained_steps=5,
        seed=1,
    )
    assert (found.full, found.rate) == (1.0, 0.05)
    assert found.sgd < 1.0


def test_descent_that_diverges_is_tried_at_a_lower_rate(task):
    """No update lowers a loss that is no number, with all examples or with few."""
    far = PLAIN.model_copy(update={"base_learning_rate": 1e6})
    found = descents_after_training(task, far, trained_steps=5, seed=1)

    assert found.rate < 1e3
    assert 0 < found.full <= 1


def test_the_surface_of_a_neuron_is_a_paraboloid_and_a_network_is_one_nearby(task):
    assert residual_of_a_neuron(task, PLAIN, seed=1) < 1e-10
    small = PLAIN.model_copy(update={"base_learning_rate": 1e-3})
    assert 0 < error_of_an_update(task, small, trained_steps=3, seed=1) < 0.05


def test_copies_of_the_digits_teach_nothing(task):
    one, four = (cost_of_copies(task, PLAIN, copies=copies, seed=1) for copies in (1, 4))

    assert four.full == pytest.approx(4 * one.full, rel=0.06)
    assert one.reached
    assert four.small == pytest.approx(one.small, rel=0.5)


def test_every_round_of_timing_is_made(task):
    sizes = [PLAIN.model_copy(update={"batch_size": size}) for size in (16, 64)]
    times = time_steps(task, sizes, rounds=3, seconds=0.01, seed=1)

    assert [one.batch_size for one in times] == [16, 64]
    assert all(len(one.rounds) == 3 and one.seconds > 0 for one in times)
    assert len(time_addresses(task, rounds=2)) == 2


@pytest.mark.slow
def test_claims_are_tried_from_python(tmp_path):
    generator = np.random.default_rng(1)
    x = generator.normal(size=(200, 4, 4)).astype("float32")
    data = (x, (x.sum((1, 2)) > 0).astype("int32"))
    found = tfbatch.try_claims(
        tiny_model.build,
        data,
        claim=["equal-epochs-equal-work", "full-batch-is-a-mini-batch"],
        preset="tiny",
        baseline="batch_size=16",
        objective="val_loss",
        trial_length="2 epochs",
        run_dir=tmp_path,
        workers=0,
        verbose=0,
    )
    assert found["C46"].verdict.word == "HOLDS"
    assert found["C8"].verdict.word == "HOLDS"
    written = json.loads((tmp_path / "verdicts.json").read_text(encoding="utf-8"))
    assert [claim["number"] for claim in written["claims"]] == ["C8", "C46"]
    assert "verdicts.html" in {path.name for path in tmp_path.iterdir()}
    assert written["fingerprint"]["hardware"]["cores"] >= 1


def summed(input_shape, num_classes):
    model = tiny_model.build(input_shape, num_classes)
    own = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    model.compile("sgd", loss=lambda y, logits: keras.ops.sum(own(y, logits)))
    return model


def test_the_gradient_of_a_loss_that_is_no_mean_is_not_compared_with_that_of_its_parts(digits):
    task = context_of(ProgramCache(Workload(digits, summed)))
    model = task.programs.workload.compiled(PLAIN, total_examples=32, seed=1)
    for measure in (
        lambda: full_against_parts(task, PLAIN),
        lambda: _measure(task, model, (8,), 1, 8),
    ):
        with pytest.raises(InputError, match="duplicating each example"):
            measure()


def test_a_mean_loss_is_the_same_however_many_examples_are_in_memory_together(task):
    model, examples = model_and_examples(task, PLAIN, seed=1, most=100)
    start = joined([variable.numpy() for variable in model.trainable_variables])
    whole, parts = (FlatLoss(model, examples, at_once=n)(start) for n in (100, 30))

    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    assert parts[1] == pytest.approx(whole[1], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("whole", [1.0, 0.0])
def test_a_batch_without_a_gradient_is_aligned_with_nothing(task, whole, monkeypatch):
    """As with the hinge loss, where no example of a batch is on the wrong side of its margin."""
    model = task.programs.workload.compiled(PLAIN, total_examples=32, seed=1)

    def gradients(model, batch, *, training):
        return [tf.fill([3], 0.0 if len(batch[-1]) == 8 else whole)]

    monkeypatch.setattr("tfbatch.gradients.loss.gradients_of", gradients)
    if whole:
        assert _measure(task, model, (8,), 1, 8).alignments == (0.0,)
    else:
        with pytest.raises(InputError, match="the gradient of all examples is 0"):
            _measure(task, model, (8,), 1, 8)
