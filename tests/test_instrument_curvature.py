"""Curvature through Keras models, against known spectra and explicit Hessians."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from contexts import context_of

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.gradients import HessianProduct
from tfbatch.instruments import curvature
from tfbatch.instruments.curvature import CurvatureSettings, curvature_of, measure_curvature_of
from tfbatch.instruments.weights_and_examples import Weights, model_at, training_batches
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload


def explicit(model, x, y):
    """The Hessian by jacobians."""
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=False))
        flat = tf.concat([tf.reshape(g, [-1]) for g in inner.gradient(loss, variables)], 0)
    rows = outer.jacobian(flat, variables, unconnected_gradients="zero")
    return (
        np.concatenate([r.numpy().reshape(len(flat), -1) for r in rows], axis=1)
        .astype(float)
        .astype(float)
    )


def compiled(*layers, loss="mse", shape=(4,)):
    model = keras.Sequential([keras.Input(shape), *layers])
    model.compile("sgd", loss)
    return model


def test_linear_regression_has_the_spectrum_of_its_inputs():
    spectrum = np.array([5.0, 2.0, 1.0, 0.25])
    x = np.eye(4) * np.sqrt(spectrum * 4)  # x'x / 4 is the spectrum; the loss doubles it
    batch = (tf.constant(x, tf.float32), tf.zeros((4, 1)))
    model = compiled(keras.layers.Dense(1, use_bias=False))
    found = curvature_of(model, [batch], settings=CurvatureSettings())
    assert found.eigenvalues.largest.value == pytest.approx(10, rel=1e-4)
    assert found.eigenvalues.smallest.value == pytest.approx(0.5, rel=1e-3)
    assert found.trace.trace == pytest.approx(2 * spectrum.sum(), rel=1e-4)
    assert found.stable_learning_rate == pytest.approx(0.2, rel=1e-4)
    assert {len(row) for row in found.rows()} == {len(found.columns())}
    assert "0.2" in found.conclusion()


def pooled():
    return compiled(
        keras.layers.Conv2D(3, 3, activation="tanh"),
        keras.layers.BatchNormalization(),
        keras.layers.MaxPooling2D(),
        keras.layers.Dropout(0.5),
        keras.layers.Conv2D(2, 2, padding="same"),
        keras.layers.AveragePooling2D(2),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        shape=(8, 8, 1),
    )


def two_linear():
    return compiled(keras.layers.Dense(3, use_bias=False), keras.layers.Dense(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [two_linear, pytest.param(pooled, marks=pytest.mark.slow)], ids=["linear", "pooling"]
)
def test_products_and_ends_are_those_of_the_explicit_hessian(make):
    keras.utils.set_random_seed(3)
    model = make()
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(7, *model.input_shape[1:])), tf.float32)
    y = tf.constant(random.integers(0, 3, 7) if make is pooled else random.normal(size=(7, 1)))
    y = y if make is pooled else tf.cast(y, tf.float32)
    truth = explicit(model, x, y)
    parts = [(x[:5], y[:5]), (x[5:], y[5:])]  # unequal: each counts by its examples
    product = HessianProduct(model, parts)
    vector = random.normal(size=product.dimension)
    assert product(vector) == pytest.approx(truth @ vector, rel=1e-3, abs=1e-4)
    settings = CurvatureSettings(most_products=product.dimension, trace_products=200)
    found = curvature_of(model, parts, settings=settings)
    values = np.linalg.eigvalsh((truth + truth.T) / 2)
    scale = float(abs(values).max())
    assert found.eigenvalues.largest.value == pytest.approx(values[-1], abs=3e-3 * scale)
    assert found.eigenvalues.smallest.value == pytest.approx(values[0], abs=3e-3 * scale)
    assert abs(found.trace.trace - np.trace(truth)) < 5 * found.trace.standard_error


def test_a_workload_is_measured_in_the_time_given(digits):
    import tiny_model

    programs = ProgramCache(Workload(digits, tiny_model.build))
    found = measure_curvature_of(
        context_of(programs),
        Configuration(batch_size=32, base_learning_rate=0.01),
        Weights(),
        CurvatureSettings(examples=100, seconds=0.0),
    )
    assert found.examples == 100
    assert found.eigenvalues.products <= 10
    assert found.trace.products == 2


@pytest.mark.parametrize(
    ("seconds", "products"),
    [
        (np.inf, (30, 20)),
        (56.0, (30, 20)),
        (41.0, (21, 14)),
        (20.0, (10, 5)),
        (1.0, (10, 2)),
    ],
    ids=["any", "just enough", "seven tenths", "the fewest and some", "the fewest"],
)
def test_products_are_as_many_as_fit_into_what_tracing_has_left(monkeypatch, seconds, products):
    """Tracing has taken 5 s, and a product takes 1 s; 30 and 20 of them are wanted."""
    now = [5.0]

    def product(vector):
        now[0] += 1
        return vector

    monkeypatch.setattr(curvature.time, "perf_counter", lambda: now[0])
    settings = CurvatureSettings(seconds=seconds)
    assert curvature._affordable(product, 3, settings, started=0.0) == products


def test_a_large_sample_is_measured_in_whole_batches(digits):
    import tiny_model

    found = measure_curvature_of(
        context_of(ProgramCache(Workload(digits, tiny_model.build))),
        Configuration(batch_size=32, base_learning_rate=0.01),
        Weights(),
        CurvatureSettings(examples=300, seconds=0.0),
    )
    assert found.examples == 2 * 128


def test_each_update_before_the_measurement_is_a_sign_of_life(digits):
    """Without any for some minutes the process would be ended as one that hangs."""
    import tiny_model

    signs = []
    measure_curvature_of(
        context_of(ProgramCache(Workload(digits, tiny_model.build)), lambda: signs.append(1)),
        Configuration(batch_size=32, base_learning_rate=0.001),
        Weights(trained_steps=40),
        CurvatureSettings(examples=64, seconds=0.0),  # 12 products
    )
    assert len(signs) >= 40


def test_nothing_to_measure_is_refused():
    with pytest.raises(InputError, match="at least one batch"):
        HessianProduct(two_linear(), [])
    with pytest.raises(InputError, match="must be >= 1"):
        CurvatureSettings(examples=0)


def test_a_hessian_that_is_not_finite_is_told_as_one():
    model = two_linear()
    model.layers[0].kernel.assign(np.full((4, 3), np.nan))
    batch = (tf.ones((2, 4)), tf.zeros((2, 1)))

    with pytest.raises(InputError, match=r"The Hessian at the given weights is not finite\. Look"):
        curvature_of(model, [batch], settings=CurvatureSettings())


def shifted_model(input_shape, num_classes):
    """Its first layer's outputs are far from mean 0 and deviation 1, which a new model assumes."""
    inputs = keras.Input(input_shape)
    hidden = keras.layers.Flatten()(inputs)
    hidden = keras.layers.Dense(3, bias_initializer=keras.initializers.Constant(30.0))(hidden)
    hidden = keras.layers.BatchNormalization()(keras.layers.Rescaling(20.0)(hidden))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(hidden))


@pytest.mark.parametrize("updates", [0, 1], ids=["initial", "one update"])
def test_before_many_updates_normalization_has_the_statistics_of_the_sample(digits, updates):
    """Mean 0 and variance 1, as a new layer has them, would make the largest eigenvalue huge.

    After one update 99 % of the statistics are these.
    """
    workload, weights = Workload(digits, shifted_model), Weights(updates, seed=4)
    found = measure_curvature_of(
        context_of(ProgramCache(workload)),
        Configuration(batch_size=32, base_learning_rate=0.01),
        weights,
        CurvatureSettings(examples=64),
    )
    model = model_at(
        ProgramCache(workload),
        Configuration(batch_size=32, base_learning_rate=0.01),
        weights,
    )
    (batch,) = training_batches(workload, batch_size=64, batches=1, seed=0, augmented=False)
    normalization = next(
        layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)
    )
    hidden = keras.Model(model.input, normalization.input)(batch[0]).numpy()
    plain = curvature_of(model, [batch], settings=CurvatureSettings())
    normalization.moving_mean.assign(hidden.mean(axis=0))
    normalization.moving_variance.assign(hidden.var(axis=0))
    truth = curvature_of(model, [batch], settings=CurvatureSettings())
    assert "moving statistics from the sample" in found.conclusion()
    assert found.eigenvalues.largest.value == pytest.approx(
        truth.eigenvalues.largest.value, rel=1e-3
    )
    assert plain.eigenvalues.largest.value > 10 * truth.eigenvalues.largest.value


class Normalizations:
    """Builds two normalizations, the first frozen or as asked for, and notes the model."""

    def __init__(self, **first):
        self.first, self.layers = first, []

    def __call__(self, input_shape, num_classes):
        inputs = keras.Input(input_shape)
        self.layers = [
            keras.layers.BatchNormalization(**{"trainable": False, **self.first}),
            keras.layers.BatchNormalization(),
        ]
        hidden = keras.layers.Flatten()(inputs)
        for layer in self.layers:
            hidden = layer(hidden)
        outputs = keras.layers.Dense(num_classes)(hidden)
        return keras.Model(inputs, outputs)


def measured(digits, build, weights, monkeypatch):
    """The conclusion, and the moving means at which it was measured."""
    means = []

    def noted(model, batches, **options):
        layers = [la for la in model.layers if isinstance(la, keras.layers.BatchNormalization)]
        means.extend(layer.moving_mean.numpy() for layer in layers)
        return curvature_of(model, batches, **options)

    monkeypatch.setattr(curvature, "curvature_of", noted)
    found = measure_curvature_of(
        context_of(ProgramCache(Workload(digits, build))),
        Configuration(batch_size=32, base_learning_rate=0.001),
        weights,
        CurvatureSettings(examples=64, seconds=0.0),
    )
    return found.conclusion(), means


@pytest.mark.parametrize("updates", [0, 1])
def test_a_frozen_normalization_keeps_the_statistics_that_training_uses(
    digits, monkeypatch, updates
):
    """The next one has the statistics of what it sees with these, far from mean 0."""
    build = Normalizations(moving_mean_initializer=keras.initializers.Constant(5.0))
    conclusion, (first, second) = measured(digits, build, Weights(updates), monkeypatch)

    assert (first == 5).all()
    assert (second < -3).all()
    assert "(moving statistics of 1 of 2 normalizations from the sample)" in conclusion


def test_what_recalibration_refuses_does_not_end_a_measurement_after_a_training(
    digits, monkeypatch
):
    build = Normalizations(trainable=True, renorm=True)
    conclusion, (first, _) = measured(digits, build, Weights(1), monkeypatch)

    assert "as the updates left them, in part a new layer's: `batch_norm" in conclusion
    assert "It has renorm=True)" in conclusion
    assert abs(first).max() < 0.02, "1 % of the data's, in [0, 1]"
    with pytest.raises(InputError, match="has renorm=True"):
        measured(digits, build, Weights(), monkeypatch)
