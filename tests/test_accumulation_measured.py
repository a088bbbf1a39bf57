"""`tfbatch.accumulated` measures on the first batch whether its loss can be cut; closed forms."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbatch
from tfbatch.errors import InputError
from tfbatch.schedules import LearningRateInExamples
from tfbatch.training.program import Program

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 6)).astype("float32")
ORDERED = (np.arange(64) >= 56).astype("float32")[:, None]  # the first micro-batches are all zeros


def network(**dense):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(4, activation="tanh", **dense)(inputs)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))


def one_update(model, loss, *, micro, y=ORDERED, **fit):
    """The change of all weights in one update with the whole batch."""
    if micro:
        tfbatch.accumulated(model, micro_batch_size=micro)
    model.compile(keras.optimizers.SGD(1.0), loss, run_eagerly=not micro)
    before = [w.copy() for w in model.get_weights()]
    model.fit(X, y, batch_size=64, epochs=1, verbose=0, shuffle=False, **fit)
    return np.concatenate(
        [(a - b).ravel() for a, b in zip(model.get_weights(), before, strict=True)]
    )


def dice(y_true, y_pred):
    overlap = keras.ops.sum(y_true * y_pred)
    return 1 - 2 * overlap / (keras.ops.sum(y_true) + keras.ops.sum(y_pred))


def dice_of_each_example(y_true, y_pred):
    overlap = keras.ops.sum(y_true * y_pred, axis=-1)
    return 1 - 2 * overlap / keras.ops.sum(y_true + y_pred, axis=-1)


def total(y_true, y_pred):
    return keras.ops.sum(keras.ops.square(y_true - y_pred))


def blind_to_its_value(y_true, y_pred):
    """Always 0, but its derivative is that of a sum."""
    error = keras.ops.sum(y_pred - y_true)
    return error - keras.ops.stop_gradient(error)


class SummedActivity(keras.layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.sum(keras.ops.square(x)))
        return x


def with_summed_activity():
    model = network()
    return keras.Model(model.inputs, SummedActivity()(model.outputs[0]))


@pytest.mark.parametrize(
    ("build", "loss", "micro"),
    [
        (network, dice, 16),
        (network, total, 16),
        (network, total, 1),
        (network, blind_to_its_value, 40),
        (with_summed_activity, "mse", 16),
    ],
)
def test_a_loss_that_no_cut_keeps_is_refused_before_the_first_update(build, loss, micro):
    model = tfbatch.accumulated(build(), micro_batch_size=micro)
    model.compile("sgd", loss)
    before = model.get_weights()

    with pytest.raises(InputError, match="first batch differs from that of its micro-batches of"):
        model.fit(X, ORDERED, batch_size=64, verbose=0)
    for weights, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, kept)


@pytest.mark.quick_cases("40-sum", "16-dice")
@pytest.mark.parametrize(
    ("dense", "loss"),
    [
        ({"activity_regularizer": "l2"}, "mse"),
        ({"kernel_regularizer": "l2"}, dice_of_each_example),
        ({"activity_regularizer": "l2"}, "sum"),
    ],
    ids=["activity", "dice-of-each", "sum"],
)
@pytest.mark.parametrize("micro", [16, 40])
def test_a_mean_over_examples_is_accepted_and_gives_the_update_of_the_batch(dense, loss, micro):
    if loss == "sum":
        loss = keras.losses.MeanSquaredError(reduction="sum")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole, cut = (one_update(network(**dense), loss, micro=m) for m in (None, micro))

    np.testing.assert_allclose(cut, whole, rtol=0, atol=1e-6 * np.linalg.norm(whole))


def test_in_float64_the_update_is_that_of_the_batch_to_the_last_digits():
    """3 does not divide 64: shares of 3/64 and 1/64, which float32 would round to 2e-8."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        data = tf.data.Dataset.from_tensors((X[:62], ORDERED[:62]))  # of a known size
        updates = []
        for micro in (None, 3):
            model = network()
            if micro:
                tfbatch.accumulated(model, micro_batch_size=micro)
            model.compile(keras.optimizers.SGD(1.0), "mse")
            start = model.get_weights()[0].copy()
            model.fit(data, shuffle=False, verbose=0)
            updates.append(model.get_weights()[0] - start)
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])

    np.testing.assert_allclose(updates[1], updates[0], rtol=1e-12)


def test_half_precision_does_not_hide_a_loss_over_the_batch():
    """Dice of a batch and of its halves differ by a few percent, as bfloat16 rounds."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    outputs = keras.layers.Dense(1, activation="sigmoid", dtype="mixed_bfloat16")(inputs)
    model = keras.Model(inputs, outputs)
    model.dtype_policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    labels = (RANDOM.random((64, 1)) < 0.5).astype("float32")
    with pytest.raises(InputError, match="differs from that of its micro-batches"):
        one_update(model, dice, micro=32, y=labels)
    one_update(model, "mse", micro=32, y=labels)


def test_a_small_difference_is_a_warning():
    def nearly(y_true, y_pred):
        error = keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)
        return error + 5e-3 * keras.ops.mean(error) * keras.ops.sum(error) / 64

    with pytest.warns(UserWarning, match="little more than rounding"):
        one_update(network(), nearly, micro=16)


@pytest.mark.quick_cases("1")
@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_measuring_costs_no_further_trace_and_no_example(steps_per_execution):
    traces, seen = [], []

    class Counts(keras.layers.Layer):
        def call(self, x, training=False):
            if training:
                traces.append(x)
            return x

    class Steps(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)

    def batches():
        yield from ((X[:size], ORDERED[:size]) for size in (8, 64, 20, 64))

    spec = (tf.TensorSpec((None, 6), tf.float32), tf.TensorSpec((None, 1), tf.float32))
    data = tf.data.Dataset.from_generator(batches, output_signature=spec)
    data = data.apply(tf.data.experimental.assert_cardinality(4))
    counted = []
    for micro in (None, 16):
        inputs = keras.Input((6,))
        model = keras.Model(inputs, keras.layers.Dense(1)(Counts()(inputs)))
        if micro:
            tfbatch.accumulated(model, micro_batch_size=micro)
        model.compile("sgd", "mse", steps_per_execution=steps_per_execution, metrics=["mae"])
        traces.clear()
        history = model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[Steps()]).history
        counted.append((int(model.optimizer.iterations), history["mae"][0], len(traces)))
    assert counted[1][2] == 2 * counted[0][2]  # the loop's body, and the rest
    assert counted[0][0] == counted[1][0] == 8
    assert counted[1][1] == pytest.approx(counted[0][1], rel=0.5)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_batches_of_one_micro_batch_are_put_back_through_one_dataset(
    steps_per_execution, monkeypatch
):
    """They cannot be measured, so that each step looks at its batch: building one is slow."""
    made = []
    build = tf.data.Dataset.from_generator
    monkeypatch.setattr(
        tf.data.Dataset,
        "from_generator",
        lambda *given, **named: made.append(1) or build(*given, **named),
    )
    weights = []
    for micro in (None, 16):
        model = network()
        if micro:
            tfbatch.accumulated(model, micro_batch_size=micro)
        model.compile(keras.optimizers.SGD(1.0), "mse", steps_per_execution=steps_per_execution)
        model.fit(X, ORDERED, batch_size=8, epochs=2, verbose=0, shuffle=False)
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))

    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-5, atol=1e-6)
    assert made == [1]


def test_a_model_compiled_again_is_measured_again_and_undone_no_more():
    model = network()
    one_update(model, "mse", micro=16)
    model.compile("sgd", dice)
    with pytest.raises(InputError, match="first batch differs"):
        model.fit(X, ORDERED, batch_size=64, verbose=0)
    tfbatch.accumulated(model, micro_batch_size=None)
    model.fit(X, ORDERED, batch_size=64, verbose=0)
    assert "make_train_function" not in vars(model)


def test_the_traced_programs_of_a_search_measure_too():
    model = tfbatch.accumulated(network(), micro_batch_size=16)
    program = Program(
        model,
        keras.optimizers.SGD(0.1),
        numbers=(),
        compile_model=lambda model, optimizer: model.compile(optimizer, dice),
    )
    data = tf.data.Dataset.from_tensors((X, ORDERED)).repeat()
    rate = LearningRateInExamples("linear", learning_rate=0.1, batch_size=64, total_examples=128)
    optimizer = keras.optimizers.SGD(rate)
    trained = program.begin(model, optimizer, steps=2, steps_per_execution=2)
    with pytest.raises(InputError, match="first batch differs"):
        trained.fit(data, steps_per_epoch=2, shuffle=False, verbose=0)


def test_a_mean_loss_passes_where_the_model_computes_in_float64_and_keras_losses_in_float32():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, dtype="float64")])
    model.dtype_policy = keras.DTypePolicy("float64")
    assert keras.config.floatx() == "float32"
    one_update(model, "mse", micro=16, y=X.sum(axis=1, keepdims=True))  # not refused
