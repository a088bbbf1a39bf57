"""Noise scale, range test and curvature through Keras models whose answers are known."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.noise_scale import squared_gradient_and_noise_trace
from tfbatch.gradients import SquaredNorms
from tfbatch.instruments.curvature import HessianProduct, measure_curvature
from tfbatch.instruments.learning_rate_range import measure_learning_rate_range
from tfbatch.instruments.noise_scale import NoiseScaleOptions, measure_noise_scale
from tfbatch.instruments.short_training import train_for
from tfbatch.pipeline.stored_data import StoredData
from tfbatch.pipeline.storing import store_data
from tfbatch.schema import Named
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

SCALES = np.array([2.0, 1.0, 0.5])
SIGMA = 0.7
TRUE = np.array([1.0, -1.0, 2.0])
START = np.array([0.0, 0.0, 0.0])
EXAMPLES = 4000
STEPS = 150
PLAIN = Configuration(
    batch_size=16,
    base_learning_rate=0.01,
    base_batch_size=16,
    optimizer=Named(name="sgd", momentum=0.0),
)


def quiet() -> None:
    """No sign of life is needed here."""


def linear() -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[-1].set_weights([START[:, None]])
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
    return model


@pytest.fixture(scope="module")
def regression(tmp_path_factory) -> StoredData:
    """y = x w* + noise, x ~ N(0, diag(SCALES**2)); see science G3."""
    random = np.random.default_rng(5)
    x = random.normal(size=(EXAMPLES, 3)) * SCALES
    y = x @ TRUE + SIGMA * random.normal(size=EXAMPLES)
    data = (x.astype(np.float32), y.astype(np.float32)[:, None])
    folder = tmp_path_factory.mktemp("regression")
    return StoredData(store_data(folder, {"train": data, "validation": data}), name="lines")


@pytest.fixture
def programs(regression) -> ProgramCache:
    return ProgramCache(Workload(regression, linear))


def gradients_of_examples(data: StoredData) -> np.ndarray:
    ((x, y),) = data.evaluation("train", batch_size=EXAMPLES)
    residual = x.numpy() @ START[:, None] - y.numpy()
    return 2 * residual * x.numpy()


def test_the_noise_scale_of_a_regression_is_the_known_one(programs, regression):
    found = measure_noise_scale(
        programs, PLAIN, (0,), 60.0, NoiseScaleOptions(), sign_of_life=quiet
    )

    each = gradients_of_examples(regression)
    trace = each.var(axis=0, ddof=1).sum()
    square = (each.mean(axis=0) ** 2).sum() - trace / EXAMPLES
    assert found.estimate.interval.low <= trace / square <= found.estimate.interval.high
    assert found.estimate.noise_scale == pytest.approx(trace / square, rel=0.5)
    # The closed form for the population: B_simple = 1 + (d'Hd + s^2) tr H / |Hd|^2.
    covariance, far = np.diag(SCALES**2), START - TRUE
    closed = 1 + (far @ covariance @ far + SIGMA**2) * np.trace(covariance) / np.sum(
        (covariance @ far) ** 2
    )
    assert trace / square == pytest.approx(closed, rel=0.2)


def test_squared_norms_are_those_of_the_examples_gradients(regression):
    each = gradients_of_examples(regression)[:24]
    ((x, y),) = regression.evaluation("train", batch_size=EXAMPLES)
    norms = SquaredNorms(linear(), micro_batches=6)

    small, large = norms((x[:24], y[:24]))

    micro = each.reshape(6, 4, 3).mean(axis=1)
    assert small == pytest.approx((micro**2).sum(axis=1).mean(), rel=1e-5)
    assert large == pytest.approx((each.mean(axis=0) ** 2).sum(), rel=1e-5)


def test_over_all_subsets_the_estimate_is_exactly_that_of_the_examples(regression):
    """Science G2: sampled without replacement, through the model's own gradients."""
    each = gradients_of_examples(regression)[:6]
    ((x, y),) = regression.evaluation("train", batch_size=EXAMPLES)
    norms = SquaredNorms(linear(), micro_batches=2)
    orders = list(itertools.permutations(range(6), 4))[::7]
    pairs = [norms((tf.gather(x, order), tf.gather(y, order))) for order in orders]
    subsets = [each[list(order)].mean(axis=0) for order in orders]

    assert np.mean([large for _, large in pairs]) == pytest.approx(
        np.mean([(g**2).sum() for g in subsets]), rel=1e-5
    )
    gradient, noise = squared_gradient_and_noise_trace(
        [p[0] for p in pairs], [p[1] for p in pairs], small_batch_size=2, large_batch_size=4
    )
    assert np.mean(noise) / np.mean(gradient) > 0


def test_layers_add_up_and_a_training_is_measured_at_its_points(programs):
    found = measure_noise_scale(
        programs, PLAIN, (0, 320), 1.0, NoiseScaleOptions(by_layer=True), sign_of_life=quiet
    )

    assert [stage.examples for stage in found.stages] == [0, 320]
    for stage in found.stages:
        (layer,) = stage.layers.values()  # one kernel is the whole model
        assert layer.noise_scale == pytest.approx(stage.estimate.noise_scale, rel=1e-9)
    assert found.stages[1].estimate.noise_scale > found.stages[0].estimate.noise_scale
    assert len(found.rows()[0]) == len(found.columns())
    assert "noise scale is" in found.conclusion()
    assert found.charts()


def test_adams_preconditioner_weights_the_squares(regression):
    def adam() -> keras.Model:
        model = linear()
        model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
        return model

    configuration = PLAIN.model_copy(update={"optimizer": Named(name="adam")})
    found = measure_noise_scale(
        ProgramCache(Workload(regression, adam)),
        configuration,
        (160,),
        1.0,
        NoiseScaleOptions(preconditioned=True),
        sign_of_life=quiet,
    )
    stage = found.stages[0]
    assert stage.preconditioned
    assert stage.preconditioned.noise_scale != stage.estimate.noise_scale

    weights = [tf.constant([[4.0], [0.0], [1.0]])]
    ((x, y),) = regression.evaluation("train", batch_size=EXAMPLES)
    _, large = SquaredNorms(linear(), micro_batches=2, weights=weights)((x[:8], y[:8]))
    mean = gradients_of_examples(regression)[:8].mean(axis=0)
    assert large == pytest.approx((np.array([4.0, 0.0, 1.0]) * mean**2).sum(), rel=1e-5)


def test_the_points_of_a_training_ascend(programs):
    with pytest.raises(InputError, match="must ascend, by a batch at least"):
        list(train_for(programs, PLAIN, (0, 160, 150), sign_of_life=quiet))


def test_measuring_leaves_the_training_as_it_is(programs):
    ends = [list(train_for(programs, PLAIN, p, sign_of_life=quiet))[-1] for p in ((320,),)]
    alone = ends[0][1].get_weights()
    for _, model in train_for(programs, PLAIN, (0, 160, 320), sign_of_life=quiet):
        SquaredNorms(model)(next(iter(programs.workload.data.evaluation("train", batch_size=64))))

    np.testing.assert_array_equal(alone[0], model.get_weights()[0])


def test_a_range_test_brackets_the_known_stable_rate(programs, regression):
    """Gradient descent on a quadratic is stable below 2 / (largest eigenvalue)."""
    whole = PLAIN.model_copy(update={"batch_size": EXAMPLES})
    found = measure_learning_rate_range(programs, whole, 1e-4, 1e2, STEPS, 2, sign_of_life=quiet)

    ((x, _),) = regression.evaluation("train", batch_size=EXAMPLES)
    hessian = 2 * x.numpy().T @ x.numpy() / EXAMPLES
    stable = 2 / np.linalg.eigvalsh(hessian)[-1]
    assert found.result.diverges_at is not None
    assert stable < found.result.diverges_at < 10 * stable
    assert found.learning_rate is not None
    assert found.learning_rate < stable
    ratios = np.diff(np.log(found.learning_rates))
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)
    first = np.mean((x.numpy() @ TRUE) ** 2) + SIGMA**2
    assert found.losses[0][0] == pytest.approx(first, rel=0.1)
    assert np.isnan(found.losses[0][-1])
    assert len(found.rows()[0]) == len(found.columns())
    assert "range test suggests" in found.conclusion()


def test_a_range_that_cannot_be_swept_is_refused(programs):
    for lowest, highest, steps in ((0.1, 0.1, 50), (0.1, 1.0, 5)):
        with pytest.raises(InputError, match="must hold"):
            measure_learning_rate_range(
                programs, PLAIN, lowest, highest, steps, 1, sign_of_life=quiet
            )


def test_the_curvature_of_a_regression_is_its_covariance(programs, regression):
    ((x, _),) = regression.evaluation("train", batch_size=EXAMPLES)
    hessian = 2 * x.numpy()[:500].T @ x.numpy()[:500] / 500
    found = measure_curvature(programs, PLAIN, (0,), 500, 20, sign_of_life=quiet).stages[0]

    spectrum = np.linalg.eigvalsh(hessian.astype(np.float64))
    assert found.eigenvalues.largest.value == pytest.approx(spectrum[-1], rel=1e-4)
    assert found.eigenvalues.smallest.value == pytest.approx(spectrum[0], rel=1e-3)
    assert abs(found.trace.trace - np.trace(hessian)) < 5 * found.trace.standard_error


def two_layers() -> keras.Model:
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
    )
    model.compile(optimizer="sgd", loss="mse")
    return model


def test_a_hessian_product_is_that_of_the_explicit_hessian(regression):
    keras.utils.set_random_seed(3)
    model = two_layers()
    ((x, y),) = regression.evaluation("train", batch_size=EXAMPLES)
    x, y = x[:40], y[:40]
    product = HessianProduct(model, (x, y))
    flat = tf.concat([tf.reshape(v.value, [-1]) for v in model.trainable_variables], 0)

    def loss(weights: Any) -> Any:
        first, bias, second, last = tf.split(weights, [12, 4, 4, 1])
        hidden = tf.tanh(x @ tf.reshape(first, [3, 4]) + bias)
        return tf.reduce_mean((hidden @ tf.reshape(second, [4, 1]) + last - y) ** 2)

    with tf.GradientTape() as outer:
        outer.watch(flat)
        with tf.GradientTape() as inner:
            inner.watch(flat)
            value = loss(flat)
        gradient = inner.gradient(value, flat)
    explicit = outer.jacobian(gradient, flat).numpy()

    columns = np.stack([product(row) for row in np.eye(product.dimension)])
    np.testing.assert_allclose(columns, explicit, atol=1e-5)
    assert product.dimension == 21
