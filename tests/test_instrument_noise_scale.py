"""The noise scale through Keras models, against closed forms and enumerated data."""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_model
from contexts import context_of
from scipy import stats

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval
from tfbatch.estimators.noise_scale import NoiseScale, estimate_noise_scale
from tfbatch.gradients import LayerNorms
from tfbatch.instruments.noise_scale import (
    NoiseScaleReading,
    NoiseScaleSettings,
    measure_noise_scale,
    noise_scale_of,
)
from tfbatch.instruments.weights_and_examples import Weights, with_initial_statistics
from tfbatch.layers import GhostBatchNormalization
from tfbatch.schema import Named
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

SPECTRUM = np.array([4.0, 2.0, 1.0, 0.5])
AWAY = np.array([0.5, -0.4, 0.3, 0.2])
NOISE = 0.5


def linear_model(weights=AWAY, loss="mse", **options):
    """At distance AWAY from the truth, which is 0."""
    dense = keras.layers.Dense(1, use_bias=False, **options)
    model = keras.Sequential([keras.Input((len(weights),)), dense])
    model.compile("sgd", loss)
    dense.kernel.assign(np.reshape(weights, (-1, 1)))
    return model


def linear_batches(count, size, seed, scale=1.0):
    random = np.random.default_rng(seed)
    for _ in range(count):
        x = random.normal(size=(size, 4)) * np.sqrt(SPECTRUM)
        y = random.normal(0, NOISE, (size, 1))
        yield tf.constant(x * scale, tf.float32), tf.constant(y * scale, tf.float32)


def linear_truth():
    """|G|^2 and tr(Sigma) of the loss (y' - y)^2: 4 times those of half of it."""
    gradient = float(((SPECTRUM * AWAY) ** 2).sum())
    excess = float((SPECTRUM * AWAY**2).sum()) + NOISE**2
    return 4 * gradient, 4 * (gradient + excess * SPECTRUM.sum())


def test_linear_regression_has_the_known_noise_scale():
    settings = NoiseScaleSettings(small_batch_size=4, micro_batches=8, most_pairs=400)
    pairs = LayerNorms(linear_model(), micro_batches=8)
    found = [pairs(batch) for batch in linear_batches(400, 32, seed=3)]
    small, large = (np.array([f[i][0].sum() for f in found]) for i in (0, 1))
    gradients, noises = (32 * large - 4 * small) / 28, (small - large) / (1 / 4 - 1 / 32)
    for values, truth in zip((gradients, noises), linear_truth(), strict=True):
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean() - truth) < 5 * error
        assert error < 0.1 * truth
    reading = noise_scale_of(linear_model(), linear_batches(400, 32, 3), settings=settings)
    gradient, noise = linear_truth()
    assert reading.estimate.noise_scale == pytest.approx(noise / gradient, rel=0.3)
    assert not reading.estimate.low_confidence


def test_all_ways_to_cut_a_data_set_give_its_exact_noise():
    """Averaged over all 6 orders of which two halves differ: 4 examples, b = 1 and B = 2."""
    x, y = next(linear_batches(1, 4, seed=1))
    norms = LayerNorms(linear_model(), micro_batches=2)
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    found = [norms((tf.gather(x, pair), tf.gather(y, pair))) for pair in pairs]
    small, large = (np.mean([f[i][0].sum() for f in found]) for i in (0, 1))
    errors = x.numpy() @ AWAY[:, None] - y.numpy()
    gradients = 2 * errors * x.numpy()
    sigma = np.var(gradients, axis=0, ddof=1).sum()
    assert (small - large) / (1 - 1 / 2) == pytest.approx(sigma, rel=1e-5)
    population = 2 * large - small
    assert population + sigma / 4 == pytest.approx((gradients.mean(0) ** 2).sum(), rel=1e-4)


def test_a_scaled_loss_has_the_same_noise_scale():
    settings = NoiseScaleSettings(small_batch_size=2, micro_batches=4, most_pairs=30)
    tripled = linear_model(loss=lambda y, p: 3 * keras.losses.mean_squared_error(y, p))
    one, other = (
        noise_scale_of(m, linear_batches(30, 8, 5), settings=settings).estimate
        for m in (linear_model(), tripled)
    )
    assert other.noise_scale == pytest.approx(one.noise_scale, rel=1e-4)
    assert other.squared_gradient == pytest.approx(9 * one.squared_gradient, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "repeats", [40, pytest.param(150, marks=pytest.mark.slow)], ids=["quick", "slow"]
)
def test_the_interval_covers_the_truth_as_often_as_it_says(repeats):
    """With 95 %, fewer hits than asked for have a probability below 1 in 1,000."""
    gradient, noise = linear_truth()
    norms = LayerNorms(linear_model(), micro_batches=4)
    hits = 0
    for repeat in range(repeats):
        found = [norms(batch) for batch in linear_batches(12, 16, seed=1000 + repeat)]
        small, large = ([f[i][0].sum() for f in found] for i in (0, 1))
        estimate = estimate_noise_scale(small, large, small_batch_size=4, large_batch_size=16)
        hits += noise / gradient in estimate.interval
    assert hits >= stats.binom.ppf(0.001, repeats, 0.95)


def test_a_diagonal_preconditioner_weighs_each_weight():
    norms = LayerNorms(linear_model(), micro_batches=2)
    batch = next(linear_batches(1, 2, seed=2))
    scale = np.array([[1.0], [2.0], [0.0], [5.0]], np.float32)
    small, large = norms(batch, [tf.constant(scale)])
    x, y = (part.numpy() for part in batch)
    gradients = 2 * (x @ AWAY[:, None] - y) * x
    assert small[1].sum() == pytest.approx((gradients**2 @ scale).mean(), rel=1e-4)
    assert large[1].sum() == pytest.approx((gradients.mean(0) ** 2 @ scale).item(), rel=1e-4)


def test_regularization_is_part_of_the_gradient_and_has_no_noise():
    plain, decayed = linear_model(), linear_model(kernel_regularizer=keras.regularizers.L2(0.5))
    batch = next(linear_batches(1, 2, seed=2))
    one, other = (LayerNorms(m, micro_batches=2)(batch) for m in (plain, decayed))
    assert other[0].sum() - other[1].sum() == pytest.approx(one[0].sum() - one[1].sum(), rel=1e-3)
    assert other[1].sum() != pytest.approx(one[1].sum(), rel=1e-3)


def test_a_sample_weight_of_zero_takes_an_example_out():
    norms = LayerNorms(linear_model(), micro_batches=2)
    x, y = next(linear_batches(1, 2, seed=2))
    whole = norms((x, y, tf.ones(2)))[0][0].sum()
    first = norms((x, y, tf.constant([1.0, 0.0])))[0][0].sum()
    second = norms((x, y, tf.constant([0.0, 1.0])))[0][0].sum()
    assert first + second == pytest.approx(whole, rel=1e-5)


@pytest.fixture(scope="module")
def programs(digits):
    return ProgramCache(Workload(digits, tiny_model.build))


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps", [pytest.param(0, marks=pytest.mark.slow), 5], ids=["initial", "trained"]
)
def test_a_workload_is_measured_layer_by_layer(programs, steps):
    signs = []
    reading = measure_noise_scale(
        context_of(programs, lambda: signs.append(1)),
        Configuration(batch_size=32, base_learning_rate=0.001, optimizer=Named(name="adam")),
        Weights(trained_steps=steps),
        NoiseScaleSettings(small_batch_size=4, preconditioned=True, most_pairs=10),
    )
    assert len(reading.by_layer) == len(reading.layers) == 2
    total = sum(layer.squared_gradient for layer in reading.by_layer)
    assert total == pytest.approx(reading.estimate.squared_gradient)
    assert reading.preconditioner.startswith("v of Adam" if steps else "v measured")
    assert reading.preconditioned.noise_scale != reading.estimate.noise_scale
    assert ("after 5 updates" if steps else "initial") in reading.conclusion()
    assert len(reading.rows()) == 4
    assert {len(row) for row in reading.rows()} == {len(reading.columns())}
    assert signs


def test_each_update_before_the_measurement_is_a_sign_of_life(programs):
    """Without any for some minutes the process would be ended as one that hangs."""
    signs = []
    reading = measure_noise_scale(
        context_of(programs, lambda: signs.append(1)),
        Configuration(batch_size=32, base_learning_rate=0.001, optimizer=Named(name="sgd")),
        Weights(trained_steps=30),
        NoiseScaleSettings(small_batch_size=4, most_pairs=2),
    )
    assert len(signs) >= 30
    assert "was asked for" not in reading.conclusion()


def test_the_model_is_left_as_it_was():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    before = [v.numpy() for v in model.variables]
    settings = NoiseScaleSettings(small_batch_size=4, micro_batches=2, most_pairs=3)
    noise_scale_of(model, linear_batches(3, 8, 1), settings=settings, mode="micro-batch")
    for variable, value in zip(model.variables, before, strict=True):
        assert np.array_equal(variable.numpy(), value), variable.path


def test_a_gradient_that_is_not_finite_is_told_as_one():
    model = linear_model([math.nan, 0.0, 0.0, 0.0])
    settings = NoiseScaleSettings(small_batch_size=4, micro_batches=2, most_pairs=3)

    with pytest.raises(InputError, match=r"The gradient at the given weights is not finite\. Look"):
        noise_scale_of(model, linear_batches(3, 8, 1), settings=settings)


def test_a_training_before_the_measurement_that_diverges_is_told_with_its_remedy(programs):
    with pytest.raises(
        InputError,
        match=r"after 3 updates is not finite\. .*smaller, --baseline=learning_rate=.*in Python",
    ):
        measure_noise_scale(
            context_of(programs),
            Configuration(batch_size=32, base_learning_rate=1e30),
            Weights(trained_steps=3),
            NoiseScaleSettings(small_batch_size=4, most_pairs=2),
        )


def test_weights_that_were_not_trained_here_are_not_said_to_have_diverged(tmp_path):
    file = tmp_path / "kept.weights.h5"
    file.touch()

    assert Weights().remedy.startswith("Look at the inputs: they may be too large")
    assert Weights(file=file).remedy.startswith("Look at the weights in kept.weights.h5 and the")


def normalized(input_shape=(4,), num_classes=1, *, layer=None, **options):
    inputs = keras.Input(input_shape)
    layer = layer or keras.layers.BatchNormalization(**{"momentum": 0.9, **options})
    return keras.Model(
        inputs, keras.layers.Dense(num_classes)(layer(keras.layers.Flatten()(inputs)))
    )


def are_initial(model, weights, batch_size=32):
    return bool(with_initial_statistics(model, weights, batch_size=batch_size))


def test_moving_statistics_are_initial_as_long_as_they_hold_a_twentieth_of_it(tmp_path):
    """0.9 ** 28 is 0.052, 0.9 ** 29 is 0.047."""
    model, file = normalized(), tmp_path / "kept.weights.h5"
    file.touch()

    steps = (0, 1, 28, 29)
    assert [are_initial(model, Weights(n)) for n in steps] == [True] * 3 + [False]
    assert are_initial(normalized(momentum=0.99), Weights(298))
    assert not are_initial(normalized(momentum=0.99), Weights(299))
    assert not are_initial(model, Weights(file=file))
    assert not are_initial(normalized(trainable=False), Weights(1)), "they stay as used"
    assert are_initial(normalized(trainable=False), Weights())
    assert not any(are_initial(linear_model(), Weights(n)) for n in (0, 1))


def test_ghost_batches_each_update_the_moving_statistics():
    """Four in an update of 128: after 8 of them 0.9 ** 32 is left, after 7 0.9 ** 28."""
    model = normalized(layer=GhostBatchNormalization(32, momentum=0.9))

    assert are_initial(model, Weights(7), batch_size=128)
    assert not are_initial(model, Weights(8), batch_size=128)
    assert are_initial(model, Weights(28), batch_size=32)


def loaded(input_shape, num_classes):
    """As a builder with weights="imagenet"."""
    layer = keras.layers.BatchNormalization()
    model = normalized(input_shape, num_classes, layer=layer)
    layer.moving_mean.assign(keras.ops.full_like(layer.moving_mean, 3.0))
    layer.moving_variance.assign(keras.ops.full_like(layer.moving_variance, 4.0))
    return model


@pytest.mark.parametrize("steps", [0, 1])
def test_statistics_that_the_builder_loads_are_used(digits, steps):
    reading = measure_noise_scale(
        context_of(ProgramCache(Workload(digits, loaded))),
        Configuration(batch_size=32, base_learning_rate=0.001),
        Weights(steps),
        NoiseScaleSettings(small_batch_size=8, micro_batches=2, most_pairs=2),
    )
    assert reading.mode == "inference"


@pytest.mark.parametrize(("steps", "mode"), [(1, "micro-batch"), (30, "inference")], ids=str)
def test_after_few_updates_each_micro_batch_is_normalized_by_itself(digits, steps, mode):
    reading = measure_noise_scale(
        context_of(ProgramCache(Workload(digits, normalized))),
        Configuration(batch_size=32, base_learning_rate=0.001),
        Weights(steps),
        NoiseScaleSettings(small_batch_size=8, micro_batches=2, most_pairs=2),
    )
    assert reading.mode == mode


def test_few_pairs_are_called_weak():
    settings = NoiseScaleSettings(small_batch_size=4, micro_batches=2, most_pairs=3)
    reading = noise_scale_of(linear_model(), linear_batches(3, 8, 1), settings=settings)
    assert reading.estimate.low_confidence
    assert "Weak" in reading.conclusion()


@pytest.mark.parametrize(
    "wrong", [{"micro_batches": 1}, {"small_batch_size": 0}, {"mode": "eval"}], ids=str
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(InputError, match="must be"):
        NoiseScaleSettings(**wrong)


def deep_reading(layers, told):
    """A reading of a network of which only some layers' squared gradients are told from 0."""

    def layer(index):
        scale = 10.0 * (layers - index)
        high = 2 * scale if index in told else np.inf
        doubt = () if index in told else ("the squared gradient is not told from 0: measure more",)
        return NoiseScale(scale, Interval(scale / 2, high), 1.0, scale, 29, doubt)

    return NoiseScaleReading(
        estimate=layer(0),
        layers=tuple(f"layer {index}" for index in range(layers)),
        by_layer=tuple(map(layer, range(layers))),
        preconditioned=None,
        preconditioner=None,
        squared_gradient_of_data=1.0,
        small_batch_size=16,
        large_batch_size=128,
        mode="inference",
        where="at initial weights",
        seconds=1.0,
    )


def test_a_few_rows_are_of_the_layers_that_have_a_figure_in_their_order():
    reading = deep_reading(45, told={40, 3, 17})
    rows, left_out = reading.short_rows(12)
    assert [row[0] for row in rows] == ["all", "layer 3", "layer 17", "layer 40"]
    assert left_out == "42 of 45 layers whose squared gradient is not told from 0"
    assert len(reading.rows()) == 46
    assert {row[0] for row in reading.rows()} > {"layer 0", "layer 44"}
    never = dataclasses.replace(reading.by_layer[3], noise_scale=np.inf)
    broken = dataclasses.replace(reading, by_layer=(never, *reading.by_layer[1:]))
    assert len(broken.short_rows(12)[0]) == 4


def test_no_more_rows_are_short_than_are_asked_for():
    reading = deep_reading(20, told=set(range(5, 20)))
    scaled = dataclasses.replace(reading, preconditioned=reading.estimate, preconditioner="v")
    rows, left_out = scaled.short_rows(12)
    assert [row[0] for row in rows][:3] == ["all", "all, preconditioned", "layer 5"]
    assert len(rows) == 12
    assert left_out == (
        "5 layers more and 5 of 20 layers whose squared gradient is not told from 0"
    )
    assert deep_reading(3, told={0, 1, 2}).short_rows(12)[1] == ""
