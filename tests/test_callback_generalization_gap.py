"""The gap of both sides in the same mode, at the same weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfbatch.callbacks import GeneralizationGap
from tfbatch.errors import InputError

rng = np.random.default_rng(0)
X = rng.normal(size=(200, 6)).astype("float32")
Y = (X[:, :1] + rng.normal(size=(200, 1)) > 0).astype("float32")
TRAINING, VALIDATION = (X[:100], Y[:100]), (X[100:], Y[100:])


def build(dropout=0.6):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(32, "relu"), keras.layers.Dropout(dropout)]
    model = keras.Sequential(
        [keras.Input((6,)), *layers, keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model


def test_it_is_the_difference_of_two_evaluations_and_not_of_the_curves():
    model, gap = build(), GeneralizationGap(TRAINING, VALIDATION)

    history = model.fit(
        *TRAINING, epochs=2, validation_data=VALIDATION, callbacks=[gap], verbose=0
    ).history

    training, validation = (
        model.evaluate(*side, verbose=0, return_dict=True) for side in (TRAINING, VALIDATION)
    )
    for name in ("loss", "accuracy"):
        true = validation[name] - training[name]
        assert gap.gap[name] == history[f"gap_{name}"][-1] == pytest.approx(true, abs=1e-5)
        assert history[f"clean_{name}"][-1] == pytest.approx(training[name], abs=1e-5)
    curves = history["val_loss"][-1] - history["loss"][-1]
    assert gap.gap["loss"] > curves + 0.02  # dropout makes the training curve look worse


@pytest.mark.slow
def test_both_samples_have_the_size_of_the_smaller_split_and_stay_the_same():
    gap = GeneralizationGap(TRAINING, (X[100:130], Y[100:130]), num_examples=50)
    model = build()
    model.optimizer.learning_rate = 0.0

    history = model.fit(*TRAINING, epochs=2, callbacks=[gap], verbose=0).history

    assert gap.num_examples == 30
    assert history["gap_loss"][0] == history["gap_loss"][1]
    assert history["clean_loss"][0] == history["clean_loss"][1]


@pytest.mark.slow
def test_sample_weights_count_on_both_sides():
    weights = np.linspace(0, 2, 100, dtype="float32")
    gap = GeneralizationGap((*TRAINING, weights), (*TRAINING, weights))

    build().fit(*TRAINING, callbacks=[gap], verbose=0)

    assert gap.gap["loss"] == pytest.approx(0, abs=1e-6)


def test_several_inputs_and_outputs_may_be_lists():
    inputs = [keras.Input((6,)), keras.Input((6,))]
    hidden = keras.layers.Concatenate()(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(1)(hidden) for _ in range(2)])
    model.compile("sgd", ["mse", "mse"])
    sides = [([x, -x], [y, 2 * y]) for x, y in (TRAINING, VALIDATION)]
    gap = GeneralizationGap(*sides)

    model.fit(*sides[0], callbacks=[gap], verbose=0)

    training, held_out = (
        model.evaluate(*side, verbose=0, return_dict=True)["loss"] for side in sides
    )
    assert gap.gap["loss"] == pytest.approx(held_out - training, abs=1e-5)


@pytest.mark.parametrize(
    ("training", "arguments", "message"),
    [
        (X, {}, r"`training` must be a tuple \(x, y\)"),
        ((X, Y[:5]), {}, r"the same number of examples.* Received: \[5, 200\]"),
        ((X[:0], Y[:0]), {}, "at least 1"),
        ((X, Y, None), {}, "`training` must be arrays .* Received: NoneType"),
        (TRAINING, {"num_examples": 0}, "must be >= 1"),
    ],
    ids=["array", "lengths", "empty", "no weights", "none"],
)
def test_data_that_cannot_be_compared_are_refused(training, arguments, message):
    with pytest.raises(InputError, match=message):
        GeneralizationGap(training, VALIDATION, **arguments)
