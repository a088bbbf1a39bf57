"""The range test in plain Keras training."""

from __future__ import annotations

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from several_optimizers import several_optimizers

from tfbatch.callbacks import LearningRateRangeTest, Throughput
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


def equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_callback_behind_it_that_restores_its_best_weights_leaves_the_model_as_before():
    """Keras tells it of the end last: the weights are then those of the sweep again."""
    model = build()
    model.optimizer.build(model.trainable_variables)
    before = state(model)
    best = keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)

    with LearningRateRangeTest(1e-5, 1e-2) as test:
        fit(model, test, best)
        assert not equal(before, state(model))

    assert equal(before, state(model))
    assert len(test.losses) == 200


def test_what_is_trained_after_the_test_within_the_with_statement_is_kept():
    model = build()

    with LearningRateRangeTest(1e-5, 1e-2) as test:
        fit(model, test)
        fit(model, epochs=1)
        trained = state(model)

    assert equal(trained, state(model))
    assert int(model.optimizer.iterations) == 100


def test_a_model_that_has_grown_within_the_with_statement_is_left_alone():
    model = build()

    def grows_and_fails():
        with LearningRateRangeTest(1e-5, 1e-2) as test:
            fit(model, test)
            model.add(keras.layers.Dense(1))
            raise KeyError

    with pytest.raises(KeyError):
        grows_and_fails()


def test_several_optimizers_are_refused_and_the_model_is_as_before():
    """Their rates were not swept, and the losses were read as if they had been."""
    model = build()
    model.compile(several_optimizers(0.005), "mse")
    before = model.get_weights()

    with pytest.raises(InputError, match=r"several learning rates\. Received: MultiOptimizer\."):
        fit(model, LearningRateRangeTest(1e-5, 1e-2))

    assert equal(before, model.get_weights())


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


def test_constant_rates_of_which_none_holds_are_a_doubt():
    """The same quadratic, with updates for one constant rate alone, which diverges."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(7.0), loss=lambda y, p: 2 * (p[:, 0] - 1) ** 2 + 1)
    model.set_weights([np.array([[0.0]])])
    test = LearningRateRangeTest(1e-3, 10.0, steps=30)

    model.fit(np.ones((60, 1)), np.ones(60), batch_size=1, callbacks=[test], verbose=0)

    assert test.constant
    assert not any(one.held for one in test.constant)
    smallest = test.constant[-1].learning_rate
    assert f"no constant rate that was tried holds, not even {smallest:.3g}:" in test.doubts[-1]
    assert test.suggestion is None or test.suggestion < smallest


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


def falling(optimizer, **compiled):
    """One weight, a loss that is four times it: each update lowers it by four times the rate."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer, loss=lambda y, p: p[:, 0], **compiled)
    model.set_weights([np.array([[0.0]])])
    return model


class Used(keras.callbacks.Callback):
    """Notes the sum of the rates of each execution, from the weight; listed before the test."""

    def on_train_begin(self, logs=None):
        self.sums, self.rates = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.before = float(self.model.weights[0][0, 0])
        self.rates.append(float(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch, logs=None):
        self.sums.append((self.before - float(self.model.weights[0][0, 0])) / 4)


def fit_falling(model, *callbacks, count, epochs=1):
    fours = np.full((count, 1), 4.0, "float32")
    model.fit(
        fours, fours, batch_size=1, epochs=epochs, shuffle=False, callbacks=list(callbacks),
        verbose=0,
    )  # fmt: skip


def test_the_rates_are_those_of_the_updates_where_executions_do_not_divide_an_epoch():
    """Ten updates an epoch, four at a time: 4, 4 and 2."""
    test, used = LearningRateRangeTest(1e-3, 1.0), Used()

    fit_falling(
        falling(keras.optimizers.SGD(7.0), steps_per_execution=4), used, test, count=10, epochs=12
    )

    rates = np.geomspace(1e-3, 1.0, 120)
    parts = [rates[10 * epoch + a : 10 * epoch + b] for epoch in range(12)
             for a, b in ((0, 4), (4, 8), (8, 10))]  # fmt: skip
    assert test.learning_rates == pytest.approx([np.exp(np.log(p).mean()) for p in parts])
    assert used.sums == pytest.approx([p.sum() for p in parts], rel=1e-3, abs=1e-5)


def test_an_optimizer_that_accumulates_and_was_trained_is_swept_from_the_lowest_rate():
    model = falling(keras.optimizers.SGD(0.5, gradient_accumulation_steps=4))
    fit_falling(model, count=40)
    test, used = LearningRateRangeTest(1e-3, 1.0), Used()

    fit_falling(model, used, test, count=30)

    assert used.rates == pytest.approx(np.geomspace(1e-3, 1.0, 30), rel=1e-4)
    assert test.learning_rates == pytest.approx(used.rates, rel=1e-4)


def test_a_rate_that_loss_scaling_skips_is_tried_again_and_noted_once():
    """Gradients of four times 3e38 and 1.5e38 are infinite: the first two updates are skipped."""
    inner = keras.optimizers.SGD(7.0)
    model = falling(keras.optimizers.LossScaleOptimizer(inner, initial_scale=3e38))
    test, used = LearningRateRangeTest(1e-3, 1.0, steps=30), Used()

    fit_falling(model, used, test, count=30)

    rates = np.geomspace(1e-3, 1.0, 30)
    assert test.learning_rates == pytest.approx(rates[:28])
    assert used.sums == pytest.approx([0, 0, *rates[:28]], rel=1e-3, abs=1e-5)


def test_a_model_that_is_not_built_is_refused_untouched_and_one_called_before_is_swept():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    test = LearningRateRangeTest(1e-5, 1e-3)

    with pytest.raises(InputError, match=r"not built yet\. Give it a `keras\.Input`, or call it"):
        fit(model, test, epochs=1)
    assert not model.optimizer.built
    fit(model, epochs=1)  # builds it

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    model(X[:1])
    fit(model, test, epochs=1)
    assert len(test.losses) == 100


def test_a_sweep_is_planned_for_the_epochs_that_are_left():
    model, test = build(), LearningRateRangeTest(1e-5, 1e-3)

    model.fit(X, Y, batch_size=8, epochs=6, initial_epoch=5, callbacks=[test], verbose=0)

    assert len(test.losses) == 100
    assert test.learning_rates[-1] == pytest.approx(1e-3)
    assert not any(doubt.startswith("fit ended") for doubt in test.doubts)


def test_too_few_epochs_that_are_left_are_refused_and_the_model_is_as_before():
    model = build()
    model.optimizer.build(model.trainable_variables)
    before = state(model)

    with pytest.raises(InputError, match="needs at least 20 losses"):
        model.fit(
            *(X, Y), batch_size=80, epochs=6, initial_epoch=5, verbose=0,
            callbacks=[LearningRateRangeTest()],
        )  # fmt: skip

    assert all(np.array_equal(a, b) for a, b in zip(before, state(model), strict=True))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.005)
    assert model.train_function is None


class LogsNoLoss(keras.Sequential):
    """Trains as others do, and calls its loss by another name."""

    def train_step(self, data):
        return {"d_loss": super().train_step(data)["loss"], "g_loss": 0.0}


def test_a_train_step_that_logs_no_loss_is_refused_and_the_model_is_as_before():
    model = LogsNoLoss([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.005, momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    before = state(model)
    with pytest.raises(InputError, match="logs `d_loss`, `g_loss`"):
        fit(model, LearningRateRangeTest(1e-3, 1.0))
    assert all(np.array_equal(a, b) for a, b in zip(before, state(model), strict=True))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.005)


def test_a_callback_listed_before_that_watches_the_input_goes_on_watching():
    """Also where the fit before was interrupted, and this one restores first."""
    model, test, throughput = build(), LearningRateRangeTest(1e-5, 1e-3), Throughput()
    fit_that_raises(model, test, "interrupted")

    fit(model, throughput, test, epochs=1)

    assert throughput.examples_per_second > 0
    assert len(test.losses) == 100
