"""What the metrics of a model come to without learning, from its loss and its targets."""

from __future__ import annotations

import math
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbatch.training.chance import chance_levels
from tfbatch.training.constant_loss import constant_loss


def levels(loss, metrics, targets, *, weights=None, class_weight=None, activation="sigmoid"):
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(targets.shape[-1], activation=activation)]
    )
    model.compile("sgd", loss, metrics=metrics)
    return of_model(model, targets, weights=weights, class_weight=class_weight)


def of_model(model, targets, *, weights=None, class_weight=None, batch_size=64, report=None):
    count = len(tf.nest.flatten(targets)[0])
    parts = (np.ones((count, 2), "float32"), targets)
    parts = parts if weights is None else (*parts, weights)
    data = tf.data.Dataset.from_tensor_slices(parts).batch(batch_size)
    untrained = model.evaluate(data, verbose=0, return_dict=True)
    source = types.SimpleNamespace(
        evaluation=lambda split: data,
        training=lambda **_: data,
        num_examples=lambda split: count,
        content=types.SimpleNamespace(sample_weights=weights is not None),
    )
    workload = types.SimpleNamespace(data=source, class_weight=class_weight)
    return chance_levels(model, workload, untrained, [].append if report is None else report)


def test_errors_of_a_regression_are_compared_with_the_mean_and_the_median():
    targets = np.array([[0.0], [0.0], [0.0], [8.0]], "float32")  # mean 2, median 0
    found = levels("mae", ["mse"], targets)

    assert found["loss"].constant == pytest.approx(2.0)
    assert found["loss"].noise == pytest.approx(9 * 2.0 / 4)
    assert found["mse"].constant == pytest.approx(12.0)
    assert found["mse"].noise == pytest.approx(9 * 12.0 / 4)
    assert levels("mse", ["mae"], targets)["mae"].constant == pytest.approx(2.0)
    root = levels("huber", [keras.metrics.RootMeanSquaredError(name="root")], targets)["root"]
    assert (root.constant, root.noise) == pytest.approx((math.sqrt(12.0), math.sqrt(12.0)))


def test_an_area_under_the_roc_curve_is_compared_with_a_half():
    targets = np.array([[0.0]] * 6 + [[1.0]] * 2, "float32")
    areas = [keras.metrics.AUC(name="area"), keras.metrics.AUC(curve="PR", name="precise")]
    found = levels("binary_crossentropy", areas, targets)

    assert found["area"].constant == 0.5
    assert found["area"].noise == pytest.approx(3 * np.sqrt(9 / (12 * 12)))
    assert found["precise"].constant is None


def own_squared_error(targets, predicted):
    return keras.ops.mean(keras.ops.square(targets - predicted), axis=-1)


def test_a_loss_of_a_users_own_has_the_level_of_the_loss_that_it_equals():
    targets = np.random.default_rng(1).normal(7.0, 2.0, (300, 1)).astype("float32")
    found = levels(own_squared_error, [], targets, activation=None)["loss"]

    assert found.constant == pytest.approx(targets.var(), rel=1e-4)
    assert found.noise == pytest.approx(9 * targets.var() / 300, rel=0.15)


def test_label_smoothing_has_the_level_of_the_smoothed_shares():
    targets = np.eye(3, dtype="float32")[[0] * 60 + [1] * 30 + [2] * 10]
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.3)
    found = levels(loss, ["accuracy"], targets, activation="softmax")

    shares = 0.7 * np.array([0.6, 0.3, 0.1]) + 0.1
    assert found["loss"].constant == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-4)
    assert found["accuracy"].constant == pytest.approx(0.6)


def test_a_constant_stays_in_the_range_of_the_models_outputs():
    """Without the softmax, predictions of 1 everywhere would have no divergence at all."""
    targets = np.eye(2, dtype="float32")[[0] * 30 + [1] * 10]
    found = levels("kl_divergence", [], targets, activation="softmax")["loss"]

    assert found.constant == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), rel=1e-3)


def test_sample_weights_count_in_the_constant():
    targets = np.array([[0.0], [0.0], [0.0], [8.0]], "float32")
    weights = np.array([1.0, 1.0, 1.0, 3.0], "float32")  # mean 4, squared error 16 * 6 / 4
    found = levels("mse", [], targets, weights=weights, activation=None)["loss"]

    assert found.constant == pytest.approx(24.0, rel=1e-4)


def test_class_weights_move_the_constant_that_training_ends_at():
    """Ten times heavier positives: shares 9 and 10 of 19, whose unweighted loss is larger."""
    targets = np.array([[0.0]] * 90 + [[1.0]] * 10, "float32")
    found = levels("binary_crossentropy", ["accuracy"], targets, class_weight={0: 1.0, 1: 10.0})

    expected = -(0.9 * math.log(9 / 19) + 0.1 * math.log(10 / 19))
    assert found["loss"].constant == pytest.approx(expected, rel=1e-3)
    assert found["accuracy"].constant == pytest.approx(0.1)
    plain = levels("binary_crossentropy", ["accuracy"], targets)
    assert plain["accuracy"].constant == pytest.approx(0.9)


def two_outputs(**compiled):
    inputs = keras.Input((2,))
    sizes = keras.layers.Dense(1, name="size")(inputs)
    kinds = keras.layers.Activation("softmax", name="kind")(keras.layers.Dense(2)(inputs))
    model = keras.Model(inputs, {"size": sizes, "kind": kinds})
    model.compile("sgd", **compiled)
    return model


def test_several_outputs_have_a_level_together_and_an_accuracy_each():
    model = two_outputs(
        loss={"size": "mse", "kind": "sparse_categorical_crossentropy"},
        loss_weights={"size": 2.0, "kind": 1.0},
        metrics={"kind": "accuracy"},
    )
    sizes = np.random.default_rng(2).normal(0.0, 3.0, (40, 1)).astype("float32")
    found = of_model(model, {"size": sizes, "kind": np.array([0] * 30 + [1] * 10)})

    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found["loss"].constant == pytest.approx(2 * sizes.var() + entropy, rel=1e-3)
    assert found["kind_accuracy"].constant == pytest.approx(0.75)


def test_several_labels_of_one_example_are_binary_each():
    targets = np.zeros((100, 2), "float32")
    targets[:50, 0], targets[:1, 1] = 1, 1
    found = levels("binary_crossentropy", ["binary_accuracy"], targets)
    rare = -(0.01 * math.log(0.01) + 0.99 * math.log(0.99))

    assert found["loss"].constant == pytest.approx((math.log(2) + rare) / 2, rel=1e-3)
    assert found["binary_accuracy"].constant == pytest.approx((0.5 + 0.99) / 2)


def test_a_model_without_a_graph_has_the_range_that_its_predictions_show():
    class Shares(keras.Model):
        def __init__(self):
            super().__init__()
            self.last = keras.layers.Dense(3)

        def call(self, inputs):
            return keras.ops.softmax(self.last(inputs))

    model = Shares()
    model.compile("sgd", "kl_divergence")
    targets = np.eye(3, dtype="float32")[[0] * 32 + [1] * 16 + [2] * 16]
    found = of_model(model, targets, batch_size=64)["loss"]

    assert found.constant == pytest.approx(1.5 * math.log(2), rel=1e-3)


def tagger(classes=3, **compiled):
    """Of two steps an example, each with a probability of each class."""
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Reshape((2, 1)), keras.layers.Dense(classes, "softmax")]
    )
    model.compile("sgd", **compiled)
    return model


@pytest.mark.slow
def test_an_accuracy_that_counts_a_class_that_the_loss_ignores_has_no_constant():
    """255 is the most frequent label, and no model predicts it."""
    labels = np.array([[255, 255], [255, 0], [0, 1], [255, 255]])
    ignoring = keras.losses.SparseCategoricalCrossentropy(ignore_class=255)
    own = lambda targets, predicted: keras.ops.sum(predicted, axis=-1)  # noqa: E731
    for loss in (ignoring, own):
        found = of_model(tagger(loss=loss, metrics=["sparse_categorical_accuracy"]), labels)
        assert found["sparse_categorical_accuracy"].constant is None
    found = of_model(
        tagger(loss="sparse_categorical_crossentropy", metrics=["accuracy"]), labels % 255
    )
    assert found["accuracy"].constant == pytest.approx(7 / 8)


def test_an_accuracy_of_labels_that_are_nan_has_no_constant():
    own = lambda targets, predicted: keras.ops.sum(predicted, axis=-1)  # noqa: E731
    model = tagger(loss=own, metrics=["sparse_categorical_accuracy"])
    labels = np.array([[0, np.nan], [1, 0]], "float32")
    assert of_model(model, labels)["sparse_categorical_accuracy"].constant is None


def test_a_masked_output_has_no_constant():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Embedding(2, 4, mask_zero=True),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    found = of_model(model, np.array([[0, 1], [0, 0], [0, 0]]))
    assert found["accuracy"].constant is None
    assert found["loss"].constant is None


def test_weights_of_steps_count_and_weighted_metrics_have_no_constant():
    labels = np.array([[0, 0], [0, 1], [0, 0]])
    weights = np.array([[1, 1], [1, 9], [1, 1]], "float32")
    model = tagger(
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="weighted")],
    )
    found = of_model(model, labels, weights=weights)
    assert found["accuracy"].constant == pytest.approx(1 / 6)  # of the class of most weight
    assert found["weighted"].constant is None


def test_rows_of_several_labels_have_as_many_entropies():
    """Each row is [1, 1, 0] or [1, 0, 1]: -log(1/2) - log(1/4) for the shares 1/2, 1/4, 1/4."""
    targets = np.array([[1, 1, 0], [1, 0, 1]] * 20, "float32")
    found = levels("categorical_crossentropy", [], targets, activation="softmax")["loss"]
    assert found.constant == pytest.approx(3 * math.log(2), rel=1e-3)


def test_the_weight_of_a_single_loss_counts_in_its_constant():
    targets = np.array([[0.0], [4.0]] * 20, "float32")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", loss_weights=[0.5])
    assert of_model(model, targets)["loss"].constant == pytest.approx(2.0, rel=1e-3)


def test_targets_are_read_only_for_what_is_known_and_only_up_to_a_limit(monkeypatch):
    targets = np.array([[0.0], [0.0], [1.0]], "float32")
    monkeypatch.setattr("tfbatch.training.chance._MOST_BYTES", 8)
    assert levels("mse", ["binary_accuracy"], targets)["binary_accuracy"].constant is None
    monkeypatch.setattr("tfbatch.training.chance._targets", None)
    assert levels("huber", ["precision"], targets)["precision"].constant is None


def test_losses_of_pixels_and_steps_have_a_constant():
    labels = np.array([[0, 0], [0, 1]] * 20)
    found = of_model(tagger(2, loss="sparse_categorical_crossentropy"), labels)["loss"]
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found.constant == pytest.approx(entropy, rel=1e-3)
    assert 0 < found.noise <= 9 / (2 * 40) * 1.05


def test_a_constant_of_large_outputs_is_fitted_to_some_examples_or_unknown(monkeypatch):
    labels = np.array([[0, 0], [0, 1]] * 20)
    model = tagger(2, loss="sparse_categorical_crossentropy")
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    monkeypatch.setattr("tfbatch.training.constant_loss._MOST_VALUES", 4 * 16)
    assert of_model(model, labels)["loss"].constant == pytest.approx(entropy, rel=1e-3)
    monkeypatch.setattr("tfbatch.training.constant_loss._MOST_VALUES", 4 * 15)
    assert of_model(model, labels)["loss"].constant is None


def test_a_loss_that_takes_no_constant_is_unknown_and_reported():
    class Own(keras.losses.Loss):
        fails = False

        def call(self, targets, predicted):
            if self.fails:
                raise AttributeError("no such constant")
            return keras.ops.mean(keras.ops.square(targets - predicted), axis=-1)

    loss, reported = Own(), []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss)
    targets = np.array([[0.0], [4.0]] * 20, "float32")

    def failing(model, workload):
        loss.fails = True
        return constant_loss(model, workload)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfbatch.training.chance.constant_loss", failing)
        found = of_model(model, targets, report=reported.append)["loss"]
    assert found.constant is None
    assert "AttributeError: no such constant" in reported[0]


def test_each_result_of_a_layer_of_several_keeps_its_place():
    inputs = keras.Input((2,))
    low, high = keras.layers.Lambda(lambda x: (x[:, :1], 10 + keras.ops.relu(x[:, 1:])))(
        keras.layers.Dense(2)(inputs)
    )
    model = keras.Model(inputs, [low, high])
    model.compile("sgd", ["mse", "mse"])
    targets = np.array([[0.0], [4.0]] * 20, "float32")
    found = of_model(model, (targets, targets))["loss"]
    assert found.constant == pytest.approx(4.0 + 4.0 + 64.0, rel=1e-3)


@pytest.mark.parametrize("names", [("z", "a"), ("a", "z")])
def test_each_output_has_its_own_sample_weights_whatever_the_order_of_the_names(names):
    classes, other = names
    inputs = keras.Input((2,))
    outputs = {
        classes: keras.layers.Dense(2, "softmax", name=classes)(inputs),
        other: keras.layers.Dense(1, name=other)(inputs),
    }
    model = keras.Model(inputs, outputs)
    losses = {classes: "categorical_crossentropy", other: "mse"}
    model.compile("sgd", losses, metrics={classes: ["categorical_accuracy"]})
    labels = np.array([0] * 6 + [1] * 2)
    targets = {classes: np.eye(2, dtype="float32")[labels], other: np.ones((8, 1), "float32")}
    weights = {
        classes: np.where(labels == 1, 10.0, 1.0).astype("float32"),
        other: np.ones(8, "float32"),
    }

    found = of_model(model, targets, weights=weights)
    assert found[f"{classes}_categorical_accuracy"].constant == pytest.approx(2 / 8)


def test_luck_beside_class_weights_is_that_of_validation():
    targets = np.array([[0.0]] * 90 + [[1.0]] * 10, "float32")
    found = levels("binary_crossentropy", [], targets, class_weight={0: 1.0, 1: 10.0})["loss"]
    assert found.noise == pytest.approx(9 / (2 * 100), rel=0.05)
