"""The range test in plain Keras training."""

from __future__ import annotations

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbatch.callbacks import LearningRateRangeTest
from tfbatch.errors import InputError

rng = np.random.default_rng(0)
X = rng.normal(size=(800, 4)).astype("float32")
Y = X @ np.array([[1.0], [2.0], [-1.0], [0.5]], "float32")


def build(rate=0.005, *, steps_per_execution=1):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.1), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        "mse",
        steps_per_execution=steps_per_execution,
    )
    return model


def fit(model, *callbacks, epochs=2):
    return model.fit(
        X, Y, batch_size=8, epochs=epochs, shuffle=False, callbacks=list(callbacks), verbose=0
    )


def trained_with_a_schedule():
    """After an epoch, with a schedule of the optimizer's own."""
    model = build(keras.optimizers.schedules.ExponentialDecay(0.005, 50, 0.5))
    fit(model, epochs=1)
    return model


@functools.cache
def undisturbed():
    """The state after an epoch, and what the next one comes to, where there was no test."""
    model = trained_with_a_schedule()
    before = state(model)
    loss = fit(model, epochs=1).history["loss"]
    return before, loss, float(model.optimizer.learning_rate)


def state(model):
    return [np.asarray(v.value) for v in [*model.variables, *model.optimizer.variables]]


@pytest.mark.slow
@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_the_test_ends_where_training_diverges_and_suggests_less(steps_per_execution):
    test = LearningRateRangeTest(1e-5, 100)
    model = build(steps_per_execution=steps_per_execution)

    model.fit(X, Y, batch_size=80, epochs=40, callbacks=[test], verbose=0)

    assert test.diverged
    assert test.learning_rates[-1] < 100
    assert 1e-4 < test.suggestion < test.result.diverges_at
    assert test.result.learning_rate == test.suggestion
    assert "one seed only" in test.doubts


@pytest.mark.quick_cases("number")
@pytest.mark.parametrize(
    "rate",
    [0.005, keras.optimizers.schedules.ExponentialDecay(0.005, 50, 0.5)],
    ids=["number", "schedule"],
)
def test_training_afterwards_is_as_if_there_had_been_no_test(rate):
    plain, tested = build(rate), build(rate)
    for model in (plain, tested):
        fit(model, epochs=1)
    fit(tested, LearningRateRangeTest(1e-5, 100))
    ends = [fit(model, epochs=1).history["loss"] for model in (plain, tested)]

    assert math.isfinite(ends[0][0])
    assert ends[0] == ends[1]
    pairs = zip(state(plain), state(tested), strict=True)
    assert all(np.array_equal(first, second) for first, second in pairs)
    assert float(plain.optimizer.learning_rate) == float(tested.optimizer.learning_rate)
    tested.optimizer.get_config()


class Interrupted(keras.callbacks.Callback):
    """Ends `fit` as Ctrl-C does."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 40:
            raise KeyboardInterrupt


def broken_off():
    """40 batches, then an error within the program."""

    def batches():
        for first in range(0, 320, 8):
            yield X[first : first + 8], Y[first : first + 8]
        raise OSError("the disk is gone")

    spec = (tf.TensorSpec((None, 4)), tf.TensorSpec((None, 1)))
    data = tf.data.Dataset.from_generator(batches, output_signature=spec)
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.apply(tf.data.experimental.assert_cardinality(100)).with_options(options)


def fit_that_raises(model, test, how):
    if how == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            fit(model, test, Interrupted(), epochs=1)
    else:
        with pytest.raises(tf.errors.UnknownError, match="the disk is gone"):
            model.fit(broken_off(), callbacks=[test], verbose=0, shuffle=False)


def restored_by(way, model, how):
    """A `fit` that raised, and what restores the model after it."""
    if way == "with":
        with LearningRateRangeTest(1e-5, 1e-2) as test:
            fit_that_raises(model, test, how)
        return
    test = LearningRateRangeTest(1e-5, 1e-2)
    fit_that_raises(model, test, how)
    if way == "restore":
        test.restore()
        test.restore()  # the second time has nothing to do
    else:
        fit(model, test)
        assert len(test.losses) == 200


@pytest.mark.slow
@pytest.mark.parametrize("how", ["interrupted", "broken off"])
@pytest.mark.parametrize(
    "way", ["with", *(pytest.param(way, marks=pytest.mark.slow) for way in ("restore", "next fit"))]
)
def test_a_fit_that_raised_leaves_a_model_that_can_be_restored(way, how):
    """Training goes on as if there had been none."""
    before, loss, rate = undisturbed()
    tested = trained_with_a_schedule()
    restored_by(way, tested, how)

    pairs = zip(before, state(tested), strict=True)
    assert all(np.array_equal(first, second) for first, second in pairs)
    assert fit(tested, epochs=1).history["loss"] == loss
    assert float(tested.optimizer.learning_rate) == rate
    tested.optimizer.get_config()


def test_an_error_within_the_with_statement_is_passed_on():
    model = build()
    model.optimizer.build(model.trainable_variables)
    before = state(model)

    with pytest.raises(KeyboardInterrupt), LearningRateRangeTest(1e-5, 1e-2) as test:
        fit(model, test, Interrupted(), epochs=1)

    assert all(np.array_equal(a, b) for a, b in zip(before, state(model), strict=True))
    assert test.result is None


def test_the_model_that_was_swept_is_restored_and_not_the_next_one():
    first, second = build(), build(0.007)
    test = LearningRateRangeTest(1e-5, 1e-2)
    before = state(first)[:2]
    fit_that_raises(first, test, "interrupted")
    assert not all(np.array_equal(a, b) for a, b in zip(before, state(first), strict=False))

    fit(second, test)

    assert all(np.array_equal(a, b) for a, b in zip(before, state(first), strict=False))
    assert float(first.optimizer.learning_rate) == pytest.approx(0.005)
    assert float(second.optimizer.learning_rate) == pytest.approx(0.007)


def test_the_rates_ascend_in_equal_factors_and_are_those_of_the_updates():
    """One weight, a loss that is it: each update lowers it by the rate."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(7.0), loss=lambda y, p: p[:, 0])
    model.set_weights([np.array([[0.0]])])
    test = LearningRateRangeTest(1e-3, 1.0, steps=31)

    model.fit(np.ones((40, 1)), np.ones(40), batch_size=1, callbacks=[test], verbose=0)

    rates = np.geomspace(1e-3, 1.0, 31)
    assert test.learning_rates == pytest.approx(rates)
    assert np.diff(test.losses) == pytest.approx(-rates[:-1], rel=1e-3, abs=1e-6)
    assert model.get_weights()[0] == 0
    assert float(model.optimizer.learning_rate) == 7.0


def test_where_updates_are_left_constant_rates_are_held_from_the_same_weights():
    """A quadratic of curvature 4: beyond a rate of 0.5 a training diverges, 0.25 is the best."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(7.0), loss=lambda y, p: 2 * (p[:, 0] - 1) ** 2 + 1)
    model.set_weights([np.array([[0.0]])])
    test = LearningRateRangeTest(1e-3, 10.0, steps=30)

    model.fit(np.ones((300, 1)), np.ones(300), batch_size=1, callbacks=[test], verbose=0)

    assert 0.5 < test.result.diverges_at < 10
    rates = [one.learning_rate for one in test.constant]
    assert rates == pytest.approx(
        [test.result.diverges_at / 2 ** (n + 1) for n in range(len(rates))]
    )
    assert [one.held for one in test.constant] == [rate < 0.5 for rate in rates]
    assert any(one.held for one in test.constant)
    assert not test.constant[0].held
    assert test.limit == max(rate for rate in rates if rate < 0.5)
    assert 0.25 / 2**0.5 < test.suggestion < 0.25 * 2**0.5
    assert model.get_weights()[0] == 0
    assert float(model.optimizer.learning_rate) == 7.0
    assert int(model.optimizer.iterations) == 0


def test_a_flat_loss_gives_no_suggestion_and_says_why():
    test = LearningRateRangeTest(1e-12, 1e-10)

    fit(build(), test)

    assert test.suggestion is None
    assert any(doubt.startswith("the loss hardly falls") for doubt in test.doubts)


def test_a_divergence_at_once_is_read_too():
    test = LearningRateRangeTest(10, 1e6)

    fit(build(), test)

    assert test.diverged
    assert len(test.learning_rates) < 20
    assert test.doubts


def test_a_training_that_another_callback_ends_says_so():
    test = LearningRateRangeTest(1e-5, 1e-4)
    stop = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: setattr(stop.model, "stop_training", batch > 40)
    )

    fit(build(), test, stop, epochs=1)

    assert test.doubts[-1] == "fit ended after 42 of 100 steps"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lowest": 0}, "`lowest` must be > 0"),
        ({"highest": math.inf}, "less than `highest`"),
        ({"lowest": 1, "highest": 0.1}, "less than `highest`"),
        ({"steps": 19}, r"`steps` must be >= 20\. Received: steps=19"),
    ],
)
def test_a_range_that_is_none_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        LearningRateRangeTest(**arguments)


def test_too_few_losses_are_refused_before_anything_is_changed():
    model = build(steps_per_execution=10)
    before = state(model)

    with pytest.raises(InputError, match="needs at least 20 losses"):
        fit(model, LearningRateRangeTest(), epochs=1)

    assert all(np.array_equal(a, b) for a, b in zip(before, state(model), strict=True))
