"""LARS against its closed form, and in `fit`."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbatch
from tfbatch.errors import InputError

LARS = tfbatch.optimizers.LARS
W = np.array([[3.0, 0.0], [0.0, 4.0]], "float32")  # norm 5
G = np.array([[0.0, 6.0], [8.0, 0.0]], "float32")  # norm 10


def stepped(optimizer, *, weight=W, gradients=(G,), dtype="float32"):
    variable = keras.Variable(weight, dtype=dtype)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)])
    return keras.ops.convert_to_numpy(variable)


def test_one_and_two_steps_are_those_of_the_paper():
    rate, momentum, trust, decay = 2.0, 0.9, 0.01, 0.1
    first_ratio = trust * 5 / (10 + decay * 5)
    velocity = rate * first_ratio * (G + decay * W)
    once = W - velocity
    norm = np.linalg.norm(once)
    velocity = momentum * velocity + rate * trust * norm / (5 + decay * norm) * (
        G / 2 + decay * once
    )

    def optimizer():
        return LARS(rate, momentum=momentum, trust_coefficient=trust, weight_decay=decay)

    assert stepped(optimizer()) == pytest.approx(once, rel=1e-6)
    twice = stepped(optimizer(), gradients=(G, G / 2))
    assert twice == pytest.approx(once - velocity, rel=1e-5)


def test_without_momentum_and_decay_a_step_is_a_fixed_share_of_the_norm():
    moved = stepped(LARS(2.0, momentum=0.0, trust_coefficient=0.01)) - W

    assert np.linalg.norm(moved) == pytest.approx(2.0 * 0.01 * 5, rel=1e-5)
    assert moved == pytest.approx(-0.1 * G / 10, rel=1e-5)


def test_the_gradient_of_an_embedding_counts_a_word_that_is_repeated_as_one():
    dense = np.array([[2.0, 2.0], [0.0, 0.0], [0.0, 0.0]], "float32")
    slices = tf.IndexedSlices(tf.ones((2, 2)), tf.constant([0, 0]), tf.constant([3, 2]))
    moved = []
    for gradient in (tf.constant(dense), slices):
        variable = keras.Variable(np.full((3, 2), 2.0, "float32"))
        optimizer = LARS(2.0, trust_coefficient=0.01, weight_decay=0.1)
        optimizer.build([variable])
        optimizer.apply([gradient])
        moved.append(keras.ops.convert_to_numpy(variable))

    assert moved[1] == pytest.approx(moved[0], rel=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e4])
def test_the_step_ignores_the_scale_of_the_gradient_and_follows_that_of_the_weights(scale):
    plain = stepped(LARS(2.0, trust_coefficient=0.01)) - W
    gradient = stepped(LARS(2.0, trust_coefficient=0.01), gradients=(scale * G,)) - W
    weight = stepped(LARS(2.0, trust_coefficient=0.01), weight=scale * W) - scale * W

    assert gradient == pytest.approx(plain, rel=1e-4, abs=1e-6)
    assert weight == pytest.approx(scale * plain, rel=1e-4, abs=1e-6 * scale)


def test_vectors_get_plain_momentum_unless_the_paper_is_asked_for():
    weight, gradient = W[1], G[1]  # norms 4 and 8

    plain = stepped(LARS(0.5, weight_decay=0.1), weight=weight, gradients=(gradient,) * 2)
    paper = LARS(0.5, weight_decay=0.1, exclude_vectors=False)

    assert plain == pytest.approx(weight - 0.5 * (1 + 1.9) * gradient)
    ratio = 0.001 * 4 / (8 + 0.1 * 4)
    expected = weight - 0.5 * ratio * (gradient + 0.1 * weight)
    assert stepped(paper, weight=weight, gradients=(gradient,)) == pytest.approx(expected)


def test_what_is_excluded_from_weight_decay_keeps_its_trust_ratio():
    optimizer = LARS(2.0, trust_coefficient=0.01, weight_decay=0.1)
    variable = keras.Variable(W, name="kept")
    optimizer.exclude_from_weight_decay(var_names=["kept"])
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor(G)])

    assert keras.ops.convert_to_numpy(variable) == pytest.approx(W - 2 * 0.01 * 0.5 * G, rel=1e-5)


@pytest.mark.parametrize(("weight", "gradient"), [(0 * W, G), (W, 0 * G), (0 * W, 0 * G)])
def test_a_norm_of_zero_is_no_division_by_zero(weight, gradient):
    """The ratio is 1: weights that begin at zero can leave it."""
    after = stepped(LARS(0.5, momentum=0.0), weight=weight, gradients=(gradient,))

    assert after == pytest.approx(weight - 0.5 * gradient)


def test_the_norm_of_many_halves_does_not_overflow():
    weight = np.full((300, 300), 16.0, "float16")  # its sum of squares is 2.3e7, beyond 65504
    after = stepped(
        LARS(1.0, momentum=0.0, trust_coefficient=0.25),
        weight=weight,
        gradients=(np.full((300, 300), 8.0, "float16"),),
        dtype="float16",
    )

    assert after == pytest.approx(12.0, rel=1e-2)


@pytest.mark.parametrize(
    "policy", ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_fit_learns_with_a_schedule_and_in_mixed_precision(policy):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu", dtype=policy),
            keras.layers.Dense(2),
        ]
    )
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 80)
    optimizer = LARS(schedule, trust_coefficient=0.02, weight_decay=1e-4)
    if policy != "float32":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss)
    history = model.fit(x, y, batch_size=16, epochs=20, verbose=0).history["loss"]

    assert history[-1] < 0.5 * history[0]
    assert math.isfinite(history[-1])


def test_it_survives_a_round_trip_with_every_number():
    before = LARS(
        2.0, momentum=0.8, trust_coefficient=0.02, weight_decay=0.1, exclude_vectors=False
    )
    after = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(before))

    assert type(after) is LARS
    assert after.get_config() == before.get_config()
    assert after.exclude_vectors is False


@pytest.mark.parametrize(
    "number", [{"momentum": 1.0}, {"trust_coefficient": 0.0}, {"weight_decay": -0.1}]
)
def test_a_number_out_of_its_range_is_refused(number):
    with pytest.raises(InputError, match=f"`{next(iter(number))}` must be"):
        LARS(0.1, **number)
