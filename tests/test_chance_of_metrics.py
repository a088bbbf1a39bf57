"""What the metrics of a model come to without learning, from its loss and its targets."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbatch.training.chance import chance_levels


def levels(loss, metrics, targets):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile("sgd", loss, metrics=metrics)
    data = tf.data.Dataset.from_tensor_slices((np.ones((len(targets), 2)), targets)).batch(4)
    untrained = model.evaluate(data, verbose=0, return_dict=True)
    source = types.SimpleNamespace(evaluation=lambda split: data)
    return chance_levels(model, types.SimpleNamespace(data=source), untrained)


def test_errors_of_a_regression_are_compared_with_the_mean_and_the_median():
    targets = np.array([[0.0], [0.0], [0.0], [8.0]], "float32")  # mean 2, median 0
    found = levels("mae", ["mse"], targets)

    assert found["loss"].constant == pytest.approx(2.0)
    assert found["loss"].noise == pytest.approx(9 * 2.0 / 4)
    assert found["mse"].constant == pytest.approx(12.0)
    assert found["mse"].noise == pytest.approx(9 * 12.0 / 4)
    assert levels("mse", ["mae"], targets)["mae"].constant == pytest.approx(2.0)


def test_an_area_under_the_roc_curve_is_compared_with_a_half():
    targets = np.array([[0.0]] * 6 + [[1.0]] * 2, "float32")
    areas = [keras.metrics.AUC(name="area"), keras.metrics.AUC(curve="PR", name="precise")]
    found = levels("binary_crossentropy", areas, targets)

    assert found["area"].constant == 0.5
    assert found["area"].noise == pytest.approx(3 * np.sqrt(9 / (12 * 12)))
    assert found["precise"].constant is None
