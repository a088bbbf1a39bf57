"""Only an optimizer that keeps second moments gives a preconditioner of its own."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.instruments.noise_scale import (
    NoiseScaleSettings,
    noise_scale_of,
    slots_preconditioner,
)
from tfbatch.optimizers import LARS


def trained(optimizer):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(optimizer, "mse")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 3)), random.normal(size=(8, 2))
    model.fit(x, y, batch_size=4, verbose=0)
    return model


@pytest.mark.quick_cases("sgd")
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: LARS(0.1, momentum=0.9),
        lambda: keras.optimizers.Lion(0.01),
        lambda: keras.optimizers.Muon(0.01),
    ],
    ids=["sgd", "lars", "lion", "muon"],
)
def test_momentum_is_no_second_moment(make):
    """The velocities of LARS have signs: their roots are NaN. Its P is measured, as that of SGD."""
    assert slots_preconditioner(trained(make())) is None


@pytest.mark.quick_cases("RMSprop", "Adam")
@pytest.mark.parametrize("name", ["Adam", "AdamW", "Nadam", "Lamb", "RMSprop", "Adagrad"])
def test_second_moments_give_finite_scales(name):
    model = trained(getattr(keras.optimizers, name)(0.01))
    scales, source = slots_preconditioner(model)

    assert f"v of {name} after 2 updates" == source
    for scale, variable in zip(scales, model.trainable_variables, strict=True):
        assert scale.shape == variable.shape
        assert np.isfinite(scale).all()
        assert (np.asarray(scale) > 0).all()


def of_words(optimizer="sgd"):
    """One number for each of ten words, 0 at first: an example's gradient is of its word alone."""
    embedding = keras.layers.Embedding(10, 1, embeddings_initializer="zeros")
    layers = [keras.Input((1,), dtype="int32"), embedding, keras.layers.Flatten()]
    model = keras.Sequential(layers)
    model.compile(optimizer, "mse")
    return model


def batches_of_words(count, seed, *, first_word=0, first_target=0.0):
    """Batches of eight of the words 0 to 4; the first example of all is as asked for."""
    random = np.random.default_rng(seed)
    words = random.integers(0, 5, (count, 8, 1)).astype("int32")
    targets = random.normal(1.0, 1.0, (count, 8, 1)).astype("float32")
    words[0, 0], targets[0, 0] = first_word, first_target
    return [(tf.constant(x), tf.constant(y)) for x, y in zip(words, targets, strict=True)]


def test_a_word_that_was_not_met_before_does_not_decide_the_preconditioned_noise_scale():
    """Its example is compared with one of no error, whose gradient is 0."""
    settings = NoiseScaleSettings(
        small_batch_size=2, micro_batches=4, preconditioned=True, most_pairs=12
    )
    unmet, plain = (
        noise_scale_of(
            of_words(),
            batches_of_words(12, seed=1, first_word=word, first_target=target),
            settings=settings,
            pilot=batches_of_words(8, seed=2),
        )
        for word, target in ((9, 2.0), (0, 0.0))
    )

    assert unmet.preconditioned.noise_scale == pytest.approx(plain.preconditioned.noise_scale)
    assert unmet.estimate.noise_trace > plain.estimate.noise_trace
    assert "without 50 % of the weights, whose gradient was 0 throughout" in unmet.preconditioner
    assert "without 50 % of the weights" in unmet.conclusion()


@pytest.mark.parametrize("target", [math.nan, math.inf, 1e30], ids=str)
def test_a_second_moment_that_is_not_finite_is_not_taken_for_a_gradient_of_0(target):
    settings = NoiseScaleSettings(
        small_batch_size=2, micro_batches=4, preconditioned=True, most_pairs=3
    )
    with pytest.raises(InputError, match="The gradient at the given weights is not finite"):
        noise_scale_of(
            of_words(),
            batches_of_words(3, seed=1),
            settings=settings,
            pilot=batches_of_words(8, seed=2, first_target=target),
        )


def test_weights_without_a_second_moment_of_their_own_are_left_out():
    model = of_words(keras.optimizers.Adam(0.01))
    for x, y in batches_of_words(4, seed=3):
        model.train_on_batch(x, y)
    (scale,), source = slots_preconditioner(model)

    assert (np.asarray(scale)[:5] > 0).all()
    assert (np.asarray(scale)[5:] == 0).all()
    assert source == (
        "v of Adam after 4 updates, without 50 % of the weights, whose gradient was 0 throughout"
    )
