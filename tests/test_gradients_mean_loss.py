"""Gradients are measured of losses that are means: sums are found wherever they hide."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbatch.callbacks import Advisor, GradientNoiseScale
from tfbatch.errors import InputError
from tfbatch.gradients import HessianProduct, LayerNorms, SquaredNorms

MEAN_SQUARE = keras.losses.MeanSquaredError
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(16, 4)).astype("float32")
Y = RANDOM.normal(size=(16, 1)).astype("float32")
BATCH = (tf.constant(X), tf.constant(Y))


def two_outputs(loss):
    inputs = keras.Input((4,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")}
    model = keras.Model(inputs, outputs if isinstance(loss, dict) else list(outputs.values()))
    model.compile("sgd", loss)
    targets = {"a": Y, "b": Y} if isinstance(loss, dict) else [Y, Y]
    return model, (BATCH[0], keras.tree.map_structure(tf.constant, targets))


def one_output(loss, *layers, **options):
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1, **options)])
    model.compile("sgd", loss)
    return model, BATCH


def summing_function(y_true, y_pred):
    return tf.reduce_sum(tf.square(y_true - y_pred))


class OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return summing_function(y, y_pred)


class AddsSum(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(tf.reduce_sum(tf.square(inputs)))
        return inputs


def own_loss():
    inputs = keras.Input((4,))
    model = OwnLoss(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd")
    return model, BATCH


SUMS = {
    "list": lambda: two_outputs([MEAN_SQUARE(reduction="sum"), "mse"]),
    "dict": lambda: two_outputs({"a": "mse", "b": MEAN_SQUARE(reduction="sum")}),
    "no reduction": lambda: one_output(MEAN_SQUARE(reduction="none")),
    "function": lambda: one_output(summing_function),
    "function in a list": lambda: two_outputs(["mse", summing_function]),
    "compute_loss": own_loss,
    "add_loss": lambda: one_output("mse", AddsSum()),
}


@pytest.mark.parametrize("kind", SUMS)
def test_a_sum_is_refused_wherever_it_hides(kind):
    model, batch = SUMS[kind]()

    for measure in (
        lambda: HessianProduct(model, [batch]),
        lambda: LayerNorms(model, micro_batches=2)(batch),
        lambda: SquaredNorms(model, micro_batches=2)(batch),
    ):
        with pytest.raises(InputError, match="one loss for each example"):
            measure()


def dice(y_true, y_pred):
    overlap = keras.ops.sum(y_true * y_pred)
    return 1 - 2 * overlap / (keras.ops.sum(y_true) + keras.ops.sum(y_pred))


def root_of_a_mean(y_true, y_pred):
    return keras.ops.sqrt(keras.ops.mean(keras.ops.square(y_true - y_pred)))


def of_known_targets(y_true, y_pred):
    """As of a translation: the mean over the steps that are not padding."""
    known = keras.ops.cast(y_true > -0.5, "float32")
    return keras.ops.sum(known * keras.ops.square(y_true - y_pred)) / keras.ops.sum(known)


@pytest.mark.parametrize("loss", [dice, root_of_a_mean, keras.losses.Dice()])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_loss_whose_examples_depend_on_one_another_is_refused(loss, policy):
    model, _ = one_output(loss, activation="sigmoid", dtype=policy)
    labels = tf.constant(3 * (np.arange(16) % 4 == 0).astype("float32")[:, None])

    with pytest.raises(InputError, match="depends on the others in its batch"):
        LayerNorms(model, micro_batches=2)((BATCH[0], labels))


@pytest.mark.quick_cases("6", "3")
@pytest.mark.parametrize(
    "made",
    [
        lambda: one_output("mse"),
        lambda: one_output("mae"),
        lambda: one_output("hinge", dtype="mixed_bfloat16"),
        lambda: one_output(of_known_targets),
        lambda: two_outputs(["mse", "mae"]),
        lambda: one_output("mse", kernel_regularizer="l2", activity_regularizer="l2"),
        lambda: one_output(lambda t, p: tf.reduce_mean(tf.square(t - p))),
        lambda: one_output(MEAN_SQUARE(reduction="mean_with_sample_weight")),
    ],
)
def test_a_mean_is_none(made):
    model, batch = made()

    assert HessianProduct(model, [batch]).dimension > 0
    assert LayerNorms(model, micro_batches=2)(batch)[0].shape[0] == 2


def test_the_callback_ends_the_training_and_the_advisor_does_not(capsys):
    model, _ = one_output(summing_function)
    x, y = np.tile(X, (8, 1)), np.tile(Y, (8, 1))
    noise, advisor = GradientNoiseScale(interval=1), Advisor(time_steps=False)

    with pytest.raises(InputError, match="not a mean over the examples"):
        model.fit(x, y, batch_size=16, callbacks=[noise], verbose=0)
    model.fit(x, y, batch_size=16, callbacks=[advisor], verbose=0)
    assert "not a mean over the examples" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [LayerNorms, SquaredNorms])
def test_each_pair_has_dropout_masks_of_its_own(kind):
    """With the same masks in every pair their noise would not be that of the interval."""
    model, batch = one_output("mse", keras.layers.Dropout(0.5, seed=1))
    norms = kind(model, micro_batches=2, training=True)
    before = [variable.value.numpy() for variable in model.variables]
    pairs = {tuple(np.ravel(norms(batch)).round(12)) for _ in range(4)}

    assert len(pairs) == 4, "the same batch, so only masks can differ"
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.value, value)
    again = kind(model, micro_batches=2, training=True)
    assert tuple(np.ravel(again(batch)).round(12)) in pairs, "reproducible"


def test_masks_differ_between_the_micro_batches_of_a_pair():
    """Alike micro-batches with alike masks would have no noise at all."""
    model, _ = one_output("mse", keras.layers.Dropout(0.5, seed=1))
    batch = tuple(tf.tile(part[:4], (4, 1)) for part in BATCH)
    small, large = SquaredNorms(model, micro_batches=4, training=True)(batch)

    assert small > 1.01 * large
